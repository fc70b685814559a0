"""Programs that run and train, and break a promise each: (model, guide, what `testing.check_model` must say of it)."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn
from torch.nn import functional

import pyro_omics as po


class Programs(po.models.CountModel):
    """x_ng ~ Poisson(l_n * softmax(linear(z_n))_g), with places to go wrong at."""

    local_sites = ("z",)

    def __init__(self, n_obs, n_genes):
        super().__init__(n_obs=n_obs)
        self.n_genes = n_genes
        self.linear = nn.Linear(3, n_genes)
        self.make()

    def make(self):
        """Make what else there is."""

    def outside(self, batch):
        """Sample what is outside the plate."""

    def inside(self, batch, z):
        """Sample what else is in the plate."""

    def prior(self):
        return dist.Normal(torch.zeros(3), 1.0).to_event(1)

    def library(self, batch):
        return batch.x.sum(-1, keepdim=True) + 1e-3

    def logits(self, z, batch):
        return self.linear(z)

    def forward(self, batch):
        self.outside(batch)
        with self.plate(batch):
            z = pyro.sample("z", self.prior())
            self.inside(batch, z)
            rate = self.library(batch) * torch.softmax(self.logits(z, batch), -1) + 1e-6
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=batch.x)


# Saving and loading ---------------------------------------------------------------------------------------------------


class RandomConstant(Programs):
    def make(self):
        self.offset = torch.randn(self.n_genes)

    def logits(self, z, batch):
        return self.linear(z) + self.offset


class WarmStartedConstant(Programs):
    def make(self):
        self.offset = torch.zeros(self.n_genes)

    def warm_start(self, guide, dm):
        self.offset = dm.data[dm.rows("training")].x.mean(0).log1p()

    def logits(self, z, batch):
        return self.linear(z) + self.offset


class RandomPenalty(Programs):
    def make(self):
        self.weight = torch.rand(()) + 1

    def penalty(self, batch, latents):
        return self.weight * self.linear.weight.square().sum()


class RandomScale(PyroModule):
    def __init__(self, model):
        super().__init__()
        self._model = (model,)
        self.loc = nn.Parameter(torch.zeros(3))
        self.scale = torch.rand(3) + 0.5

    def forward(self, batch):
        with self._model[0].plate(batch):
            pyro.sample("z", dist.Normal(self.loc, self.scale).to_event(1))


# Rows -----------------------------------------------------------------------------------------------------------------


class SizesByPosition(Programs):
    def make(self):
        self.log_size = nn.Parameter(torch.zeros(self.n_obs, 1))

    def library(self, batch):
        return super().library(batch) * self.log_size[: len(batch.index)].exp()


class SizesByIndex(SizesByPosition):
    def library(self, batch):
        return Programs.library(self, batch) * self.log_size[batch.index.clamp(max=self.n_obs - 1)].exp()


class TableByPosition(PyroModule):
    shape = staticmethod(lambda n: (n, 3))

    def __init__(self, model):
        super().__init__()
        self._model = (model,)
        self.loc = nn.Parameter(torch.zeros(self.shape(model.n_obs)))
        self.log_scale = nn.Parameter(torch.zeros(self.shape(model.n_obs)))

    def rows(self, table, n):
        return table[:n]

    def forward(self, batch):
        loc, log_scale = (self.rows(table, len(batch.index)) for table in (self.loc, self.log_scale))
        with self._model[0].plate(batch):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class LongTableByPosition(TableByPosition):
    shape = staticmethod(lambda n: (n + 1, 3))


class ColumnsByPosition(TableByPosition):
    shape = staticmethod(lambda n: (3, n))

    def rows(self, table, n):
        return table[:, :n].T


class PointsByPosition(TableByPosition):
    def forward(self, batch):
        with self._model[0].plate(batch):
            scale = self.log_scale.exp().mean()
            loc = self.loc[: len(batch.index)] * scale
            pyro.sample("z", dist.Delta(loc, event_dim=1))


class CentredEncoder(Programs):
    def encoder_inputs(self, batch):
        logs = torch.log1p(batch.x)
        return logs - logs.mean(0)


class StandardisedEncoder(Programs):
    def encoder_inputs(self, batch):
        logs = torch.log1p(batch.x)
        return logs / (logs.std(0) + 0.1) if len(logs) > 1 else logs


class MeanLibrary(Programs):
    def library(self, batch):
        return batch.x.sum(-1).mean()


class CentredLatent(Programs):
    def logits(self, z, batch):
        return self.linear(z - z.mean(0))


class CentredInTraining(Programs):
    def logits(self, z, batch):
        return self.linear(z - z.mean(0) if self.training else z)


class AggregateFactor(Programs):
    def inside(self, batch, z):
        pyro.factor("aggregate", -0.5 * z.mean(0).square().sum().expand(len(batch.index)))


class WeightsInThePlate(Programs):
    def inside(self, batch, z):
        each = -0.5 * self.linear.weight.square().sum() / len(batch.index)
        pyro.factor("weights", each.expand(len(batch.index)))


class ScaledByHand(Programs):
    def forward(self, batch):
        with pyro.poutine.scale(scale=self.n_obs / len(batch.index)):
            super().forward(batch)


class NoiseByHand(Programs):
    def logits(self, z, batch):
        return self.linear(z) + 0.1 * torch.randn(self.n_genes)


class RescaledGlobal(Programs):
    def outside(self, batch):
        with pyro.poutine.scale(scale=1.0 / len(batch.index)):
            pyro.sample("extra", dist.Normal(0.0, 1.0))


class CountsOutsideThePlate(Programs):
    def forward(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", self.prior())
        rate = self.library(batch) * torch.softmax(self.linear(z), -1)
        pyro.sample("x", dist.Poisson(rate).to_event(2), obs=batch.x)


# Gradients ------------------------------------------------------------------------------------------------------------


class Forgotten(Programs):
    def make(self):
        self.forgotten = nn.Parameter(torch.zeros(2))


class Detached(Forgotten):
    def library(self, batch):
        return super().library(batch) * (1 + self.forgotten.detach().exp().sum())


class Multiplied(Forgotten):
    def library(self, batch):
        return super().library(batch) + 0 * self.forgotten.sum()


class NeverActive(Programs):
    def make(self):
        self.raw = nn.Parameter(torch.tensor(-3.0))

    def library(self, batch):
        return super().library(batch) * (1 + torch.relu(self.raw))


class InAList(Programs):
    def make(self):
        self.parts = [nn.Parameter(torch.zeros(()))]

    def library(self, batch):
        return super().library(batch) * self.parts[0].exp()


class InADict(Programs):
    def make(self):
        self.parts = {"size": [nn.Parameter(torch.zeros(()))]}

    def library(self, batch):
        return super().library(batch) * self.parts["size"][0].exp()


class Unregistered(Programs):
    def make(self):
        self.raw = torch.zeros((), requires_grad=True)

    def library(self, batch):
        return super().library(batch) * self.raw.exp()


# Pairs ----------------------------------------------------------------------------------------------------------------


class Positive(Programs):
    def prior(self):
        return dist.LogNormal(torch.zeros(3), 1.0).to_event(1)


class Bounded(Programs):
    def prior(self):
        return dist.Uniform(-2 * torch.ones(3), 5.0).to_event(1)


class Shared(PyroModule):
    """One distribution for all rows."""

    def __init__(self, model):
        super().__init__()
        self._model = (model,)
        self.loc = nn.Parameter(torch.zeros(3))

    def fn(self):
        return dist.Normal(self.loc, 1.0)

    def forward(self, batch):
        with self._model[0].plate(batch):
            pyro.sample("z", self.fn().to_event(1))


class HalfTheSupport(Shared):
    def fn(self):
        return dist.LogNormal(self.loc, 1.0)


class AnInterval(Shared):
    def fn(self):
        return dist.Uniform(self.loc - 1, self.loc + 1)


class GammaGuide(Shared):
    def fn(self):
        return dist.Gamma(self.loc.exp(), 1.0)


class GlobalSize(Programs):
    def outside(self, batch):
        self.size = pyro.sample("size", dist.Normal(0.0, 1.0))

    def library(self, batch):
        return super().library(batch) * self.size.exp().reshape(-1, 1)


class GlobalInThePlate(Shared):
    def forward(self, batch):
        with self._model[0].plate(batch):
            pyro.sample("size", dist.Normal(self.loc[0], 0.1))
            pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))


WRONG = [
    (RandomConstant, None, r"saved and loaded model has other \['log p\(x\)'\].*not a parameter, buffer"),
    (WarmStartedConstant, None, r"saved and loaded model has other \['log p\(x\)'\].*not a parameter, buffer"),
    (RandomPenalty, None, "saved and loaded model has another loss in training"),
    (Programs, RandomScale, r"saved and loaded model draws other \['z'\]"),
    (SizesByPosition, None, "'x' in the model depends on its place in the minibatch.*by batch.index"),
    (Programs, TableByPosition, "'z' in the guide depends on its place in the minibatch"),
    (Programs, LongTableByPosition, "'z' in the guide depends on its place in the minibatch"),
    (Programs, ColumnsByPosition, "'z' in the guide depends on its place in the minibatch"),
    (Programs, PointsByPosition, "'z' in the guide depends on its place in the minibatch"),
    (CentredEncoder, None, "'z' in the guide depends on which other rows are in the minibatch"),
    (StandardisedEncoder, None, "'z' in the guide depends on which other rows are in the minibatch"),
    (MeanLibrary, None, "'x' in the model depends on which other rows are in the minibatch"),
    (CentredLatent, None, "'x' in the model depends on which other rows are in the minibatch"),
    (CentredInTraining, None, "'x' in the model in training mode depends on which other rows"),
    (AggregateFactor, None, "'aggregate' in the model depends on which other rows are in the minibatch"),
    (WeightsInThePlate, None, "'weights' in the model depends on which other rows.*number of rows"),
    (ScaledByHand, None, "do not average to the full one: 'z' in the model is scaled by hand"),
    (NoiseByHand, None, "random numbers outside of pyro.sample"),
    (RescaledGlobal, None, "global terms depend on the batch size: 'extra' in the model"),
    (CountsOutsideThePlate, None, "global terms depend on the batch size: 'x' in the model.*inside it"),
    (Forgotten, None, r"no gradient reaches.*forgotten"),
    (Detached, None, r"no gradient reaches.*forgotten"),
    (Multiplied, None, r"gradient of.*forgotten.*exactly 0 on 3 batches"),
    (NeverActive, None, r"gradient of.*raw.*exactly 0 on 3 batches"),
    (InAList, None, r"gradient in \['model.parts'\], which no optimizer sees.*ParameterList"),
    (InADict, None, r"gradient in \['model.parts'\], which no optimizer sees.*ParameterList"),
    (Unregistered, None, r"gradient in \['model.raw'\], which no optimizer sees"),
    (Programs, HalfTheSupport, "guide's 'z' is on .*leaves out part of the model's support"),
    (Programs, AnInterval, "guide's 'z' is on .*leaves out part of the model's support"),
    (Positive, Shared, "guide draws values of 'z' outside of the model's support"),
    (GlobalSize, GlobalInThePlate, "'size' is outside self.plate.batch. in the model and in it in the guide"),
]


# Right, and like the wrong ones ---------------------------------------------------------------------------------------


class ParameterList(Programs):
    def make(self):
        self.parts = nn.ParameterList([nn.Parameter(torch.zeros(()))])

    def library(self, batch):
        return super().library(batch) * self.parts[0].exp()


class DeadUnits(Programs):
    """Some units of a layer have no gradient, the layer has one."""

    def make(self):
        self.hidden = nn.Linear(3, 3)
        with torch.no_grad():
            self.hidden.bias[0] = -1e3

    def logits(self, z, batch):
        return self.linear(torch.relu(self.hidden(z)))


class DropoutByHand(Programs):
    def logits(self, z, batch):
        return self.linear(functional.dropout(z, 0.2, self.training))


class SavedConstant(Programs):
    def make(self):
        self.register_buffer("offset", torch.randn(self.n_genes))

    def logits(self, z, batch):
        return self.linear(z) + self.offset


class GeneEffects(Programs):
    """A global latent for each gene."""

    def outside(self, batch):
        self.effect = pyro.sample("effect", dist.Normal(torch.zeros(self.n_genes), 1.0).to_event(1))

    def logits(self, z, batch):
        return self.linear(z) + self.effect


def table_of_rows(model):
    """Points whose last digit depends on the size of the batch."""
    return AutoNormal(model, create_plates=model.plate)


RIGHT = [
    (Programs, None),
    (SizesByIndex, None),
    (ParameterList, None),
    (DeadUnits, None),
    (DropoutByHand, None),
    (SavedConstant, None),
    (GeneEffects, None),
    (Positive, None),
    (Positive, GammaGuide),
    (Positive, table_of_rows),
    (Bounded, table_of_rows),
    (Bounded, None),
    (Bounded, po.guides.AmortizedFlow),
    (Bounded, po.guides.PerObservation),
]
