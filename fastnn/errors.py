"""Errors of its own that fastnn raises."""


class DivergenceError(RuntimeError):
    """The loss became NaN or infinite.

    epoch and iteration (both from 1) say where, lr with which learning rate.
    """

    def __init__(self, epoch: int, iteration: int, lr: float):
        self.epoch, self.iteration, self.lr = epoch, iteration, lr
        super().__init__(
            f"the loss became NaN or infinite in epoch {epoch}, iteration {iteration}, at learning rate {lr:g}; "
            f"the parameters are back to those before that epoch. Try a smaller learning rate, such as {lr / 10:g}"
        )
