"""What was not observed is unknown, and what fails the check is the only thing that stays."""

import copy

import pytest
import torch
from draws import generator
from nets import assert_same, observe, snapshot
from torch import nn

from mmpsbn.layers import psBN2d
from mmpsbn.pruning import VerificationError, prune_dead_channels, trace_channel_graph
from mmpsbn.pruning.flow import trace_readers
from mmpsbn.pruning.forward import call_with
from mmpsbn.pruning.prune import prune_channels, prune_what_holds


class Router(nn.Module):
    """Bright pictures go to one branch, dark ones to the other."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3)
        self.bright, self.dark = (
            nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1))
            for _ in range(2)
        )
        self.double()

    def forward(self, x):
        bright = x.mean((1, 2, 3)) > 0
        x = self.stem(x)
        return self.bright(x[bright]), self.dark(x[~bright])


def pictures(*brightness):
    noise = torch.randn(len(brightness), 3, 8, 8, generator=generator(), dtype=torch.float64)
    return torch.tensor(brightness).view(-1, 1, 1, 1) + noise / 10


@pytest.mark.parametrize('criterion', ['dead', 'collapsed'])
def test_a_branch_that_only_saw_empty_batches_loses_nothing(criterion):
    model = Router().eval()
    for branch in (model.bright, model.dark):
        branch[1].weight.data[:3], branch[1].bias.data[:3] = 0, 0
    before = model(pictures(1, -1))
    # how an empty batch runs does not even tell which norm belongs to which layer
    result = prune_dead_channels(model, [pictures(1, 2), pictures(-1)], criterion)
    assert result.channels_removed == {'bright.0': 3}
    assert 'only an empty batch came here' in result.skipped['dark.0']
    assert prune_dead_channels(model, [pictures(2, -2)], criterion).channels_removed == {
        'dark.0': 3
    }
    for now, then in zip(model(pictures(1, -1)), before):
        torch.testing.assert_close(now, then, rtol=1e-12, atol=0)


def test_a_constant_behind_a_branch_that_nothing_reached_stays():
    class Constant(Router):
        def __init__(self):
            super().__init__()
            for branch in (self.bright, self.dark):
                branch[1] = psBN2d(16).double()
                branch[1].weight.data[:5] = 0

    model = Constant()
    result = prune_dead_channels(model, [pictures(1)], 'collapsed')
    assert result.channels_removed == {'bright.0': 5}


# --- calls by keyword -----------------------------------------------------------------------


class ByKeyword(nn.Module):
    """Layers called by keyword; channels 1 and 2 are dead."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Linear(5, 2)
        for layer in (self.a, self.b):
            layer.bias.data[:] = 3
            layer.weight.data[1:3], layer.bias.data[1:3] = 0, -1
        self.double()

    def forward(self, x):
        x = self.b(input=self.a(x).relu()).relu()
        return self.c(input=x.mean((2, 3)))


def test_layers_called_by_keyword_are_traced_watched_observed_and_masked():
    model, x = ByKeyword(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert trace_readers(model, x, call_with, sources=['a', 'b']) == {
        'a': (('b', 0),),
        'b': (('c', 0),),
    }
    seen = observe(model, [x])
    assert seen['b'].inactive_mask(eps=0).nonzero().flatten().tolist() == [1, 2]
    masks = {'a': torch.tensor([True, True, True, False])}
    graph = trace_channel_graph(model, x, call_with)
    how = dict(batch=x, forward_fn=call_with, tolerance=1e-12)
    pruned = copy.deepcopy(model)
    prune_channels(pruned, graph.groups, masks, live=True, **how)
    with torch.no_grad():
        model.b.weight[:, 3] = 0
    torch.testing.assert_close(pruned(x), model(x), rtol=1e-12, atol=0)
    assert prune_dead_channels(model, [x]).channels_removed == {'a': 2, 'b': 2}


# --- what fails verification -----------------------------------------------------------------


class TwoGroups(nn.Module):
    """In each group channels 0 to 2 are dead; in the first one channel 4 has a small gamma and
    a reader that makes much of it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm_a = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.b, self.norm_b = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.c = nn.Conv2d(8, 2, 1)
        for norm in (self.norm_a, self.norm_b):
            norm.weight.data[:3], norm.bias.data[:3] = 0, -1
        self.norm_a.weight.data[4], self.norm_a.bias.data[4] = 8e-4, 1
        self.b.weight.data[:, 4] = 100
        self.double()

    def forward(self, x):
        x = self.norm_a(self.a(x)).relu()
        return self.c(self.norm_b(self.b(x)).relu())


X = torch.randn(3, 3, 8, 8, generator=generator(), dtype=torch.float64)


def test_of_a_group_at_fault_what_is_exactly_0_still_goes():
    model = TwoGroups()
    before = copy.deepcopy(model).eval()(X)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(X).square().sum().backward(), optimizer.step()
    with torch.no_grad():
        for name, value in TwoGroups().state_dict().items():
            model.state_dict()[name].copy_(value)
    result = prune_dead_channels(model, [X], 'collapsed', optimizers=iter([optimizer]))
    assert result.channels_removed == {'a': 3, 'b': 3}
    assert "removing ['a'] changes the outputs" in result.skipped['a']
    torch.testing.assert_close(model.eval()(X), before, rtol=1e-12, atol=1e-12)
    for p in model.parameters():  # one-shot: the second try must cut the momenta too
        assert optimizer.state[p]['momentum_buffer'].shape == p.shape


def test_widths_stay_multiples_where_only_the_dead_go():
    result = prune_dead_channels(TwoGroups(), [X], 'collapsed', round_to=4)
    assert result.channels_removed == {}  # 5 would be left, or 4 with the one that is refused
    result = prune_dead_channels(TwoGroups(), [X], 'collapsed', round_to=2)
    assert result.channels_removed == {'a': 2, 'b': 2}


def group_pruner(model, wrong=()):
    graph = trace_channel_graph(model, X, call_with)
    masks = {name: torch.arange(8) >= 3 for name in graph.groups}
    for name in wrong:
        masks[name] = torch.arange(8) != 6
    scores = {name: torch.where(torch.arange(8) >= 3, 1.0, 0.0) for name in graph.groups}
    how = dict(batch=X, forward_fn=call_with, tolerance=1e-9, norm_of=graph.norm_of)
    rounding = dict(min_channels=1, round_to=1)
    return lambda **more: prune_what_holds(
        model, graph.groups, masks, scores=scores, **rounding, **how, **more
    )


def test_a_group_that_fails_twice_is_left_whole_and_the_others_go():
    removal, refused = group_pruner(TwoGroups(), wrong=['b'])()
    assert removal.channels_removed == {'a': 3} and set(refused) == {'b'}


def test_wrong_only_together_is_an_error_once_nothing_but_zeros_is_left():
    model = TwoGroups()
    before, calls = snapshot(model), []

    def wrong_together(error):
        calls.append(error)
        return 1.0 if len(calls) == 1 else 0.0

    with pytest.raises(VerificationError):
        group_pruner(model)(agree=wrong_together)
    assert_same(snapshot(model), before)


@pytest.mark.parametrize('at_fault', [[], [5], [0, 15], [3, 4, 9]])
def test_the_groups_at_fault_are_found_by_halving(at_fault):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(17))).double()
    graph = trace_channel_graph(model, X, call_with)
    masks = {}
    for k in range(16):
        masks[str(k)] = torch.tensor([True, False, True])
        if k not in at_fault:
            model[k + 1].weight.data[:, 1] = 0  # nobody hears it
    before, passes = snapshot(model), []

    def forward_fn(model, batch):
        passes.append(1)
        return model(batch)

    def run():
        return prune_channels(
            model, graph.groups, masks, batch=X, forward_fn=forward_fn, tolerance=1e-9
        )

    if not at_fault:
        assert len(run().channels_removed) == 16 and len(passes) == 2
        return
    with pytest.raises(VerificationError) as caught:
        run()
    assert caught.value.groups == [str(k) for k in at_fault]
    assert_same(snapshot(model), before)
    # before and after; two halves on each of four levels; and to look for operations that choose
    assert len(passes) <= 2 + len(at_fault) * 4 * 2 + 1


# --- outputs that are a choice ---------------------------------------------------------------


class Ranked(TwoGroups):
    def forward(self, x):
        return super().forward(x).flatten(1).argmax(1)


def test_a_refusal_says_that_the_outputs_are_a_choice():
    model = Ranked()
    groups = trace_channel_graph(model, X, call_with).groups
    wrong = {'a': torch.arange(8) != 4}
    for forward_fn, message in (
        (call_with, 'but argmax choose or order them.*forward_fn'),
        (TwoGroups.forward, r'their maximum \(tolerance'),
    ):
        with pytest.raises(VerificationError, match=message):
            prune_channels(model, groups, wrong, batch=X, forward_fn=forward_fn, tolerance=1e-5)


class Proposes(TwoGroups):
    """Chooses a position by scores that are all the same, but for a rounding error that goes by
    the width; where nothing is chosen there is -inf."""

    by_sort = False

    def forward(self, x):
        y = super().forward(x).flatten(2)
        scores = torch.ones_like(y[:, 0])
        scores[:, 0] += 1e-15 * (self.a.out_channels - 7.5)
        scores[:, 3] = -torch.inf
        best = scores.sort(1, descending=True).indices[:, :1]
        best = best if self.by_sort else scores.topk(1, dim=1).indices
        return y.gather(2, best[:, None].expand(-1, 2, 1))


@pytest.mark.parametrize('live', [False, True])
@pytest.mark.parametrize('by_sort', [False, True])
def test_a_choice_that_a_rounding_error_tips_is_made_again(live, by_sort):
    model = Proposes()
    model.by_sort = by_sort
    groups = trace_channel_graph(model, X, call_with).groups
    how = dict(batch=X, forward_fn=call_with, tolerance=1e-9, live=live)
    with torch.no_grad():
        before = model.eval()(X)
        assert len(prune_channels(model, groups, {'a': torch.arange(8) > 0}, **how).keep_masks) == 1
        assert (model(X) - before).abs().max() > 1e-3


class ChoosesBy(TwoGroups):
    """``mark`` stands where nothing may be chosen."""

    def __init__(self, mark):
        super().__init__()
        self.mark = mark

    def forward(self, x):
        scores = super().forward(x).flatten(2).mean(2)
        chosen = nn.functional.pad(scores, (0, 1), value=self.mark).topk(1).indices
        return scores.detach().new_zeros(3, 3).scatter(1, chosen, 1.0)


@pytest.mark.parametrize('mark', [-float('inf'), -1e9, torch.finfo(torch.double).min])
def test_what_is_chosen_from_must_stay_the_same(mark):
    """The choice is made again, so it tells nothing of what it was made by."""
    model = ChoosesBy(mark)
    groups = trace_channel_graph(model, X, call_with).groups
    wrong = {'a': torch.arange(8) != 4}
    with pytest.raises(VerificationError, match='changes the outputs'):
        prune_channels(model, groups, wrong, batch=X, forward_fn=call_with, tolerance=1e-5)
