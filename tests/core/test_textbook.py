import torch

from diladiff_cli.core.textbook import log_prediction

MASK = 0


def test_the_prediction_is_normalised_and_certain_at_known_positions() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    logits[..., MASK] = -torch.inf
    x_t = torch.tensor([[MASK, 2, 4], [1, MASK, MASK]])

    p = log_prediction(logits, x_t, MASK).exp()

    assert p.dtype == torch.float64
    masked = x_t == MASK
    assert torch.allclose(p[masked], logits[masked].double().softmax(-1), atol=1e-12)
    assert torch.equal(p[~masked], torch.nn.functional.one_hot(x_t[~masked], 5).double())
