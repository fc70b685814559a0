"""Count matrices whose minibatches are made dense: in memory, on a device and on disk, and the checks of counts."""
