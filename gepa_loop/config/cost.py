"""What things cost: read by no result, only by what is said of them."""

from __future__ import annotations

from gepa_loop.config.kinds import Above0, Positive, Section, Weight

CACHED_SHARE = 0.1
"""Of the price of a token that is read, what Anthropic asks for one that its prefix cache has; others ask up to a half."""


class CostConfig(Section):
    """Prices, for what a run is said to cost and when its student pays for itself; no result depends on them, and a run may go on under others."""

    gpu_usd_hour: Above0 | None = None
    """US dollars that an hour of this machine's GPU costs. None: nothing is said of its dollars."""
    input_usd: Above0 | None = None
    """US dollars that the endpoint which is prompted today asks for a million tokens that it reads. None: what reading them takes of this
    machine, at `cost.gpu_usd_hour`."""
    cached_input_usd: Weight | None = None
    """The same for tokens that its prefix cache has. None: a tenth of `cost.input_usd`; nothing on a GPU of one's
    own, which reads the prompt once."""
    calls: Positive | None = None
    """Calls a month. None: no month is reckoned."""

    def price(self, tokens_per_second: float | None) -> float | None:
        """US dollars of a token that is read, on a machine that reads so many a second; None where no price is known."""
        if self.input_usd is not None:
            return self.input_usd / 1e6
        if self.gpu_usd_hour is None or tokens_per_second is None:
            return None
        return self.gpu_usd_hour / 3600 / tokens_per_second

    @property
    def cached_price(self) -> float:
        """US dollars of a token that a prefix cache has."""
        if self.cached_input_usd is not None:
            return self.cached_input_usd / 1e6
        return CACHED_SHARE * (self.input_usd or 0.0) / 1e6
