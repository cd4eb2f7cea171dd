"""Errors of its own that fastnn raises."""


class DivergenceError(RuntimeError):
    """The loss became NaN or infinite, or an update made a parameter so.

    epoch and iteration (both from 1) say where, lr with which learning rate. kept says what the parameters are now.
    """

    def __init__(self, epoch: int, iteration: int, lr: float, kept: str, what: str = "the loss"):
        self.epoch, self.iteration, self.lr = epoch, iteration, lr
        super().__init__(
            f"{what} became NaN or infinite in epoch {epoch}, iteration {iteration}, at learning rate {lr:g}; "
            f"{kept}. Try a smaller learning rate, such as {lr / 10:g}"
        )
