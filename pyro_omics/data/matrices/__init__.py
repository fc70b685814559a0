"""Count matrices in memory, on a device and on disk, which give dense minibatches; checks of counts."""
