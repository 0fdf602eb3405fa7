"""An operation of PyTorch as it was done once, and the quickest way to do it again into the memory it was done in."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

Call = Callable[[], object]

WORTH_MOVING = 2**16  # bytes

FRESH = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}  # nothing in it yet
_COPIES = {"_to_copy", "clone"}
_ZEROS = {"zeros", "zeros_like", "new_zeros"}
_LIKE = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}  # a tensor, but not its values


class Operation(NamedTuple):
    """An operation as it was done, on aliases of its tensors. `made`: what it returned in memory of its own."""

    call: Any
    given: tuple[Any, ...]
    named: dict[str, Any]
    made: list[Tensor]
    whole: bool  # whether it returned nothing else

    @property
    def name(self) -> str:
        """The operator's, without its overload."""
        return self.call._schema.name.partition("::")[2]

    @property
    def writes(self) -> bool:
        """Whether it changes tensors that it is given."""
        return self.call._schema.is_mutable

    @property
    def draws(self) -> bool:
        """Whether it takes numbers from a generator."""
        return torch.Tag.nondeterministic_seeded in self.call.tags

    @property
    def reads(self) -> list[Tensor]:
        """The tensors it is given, those that it changes among them."""
        return [] if self.name in _LIKE else tensors((self.given, *self.named.values()))

    @property
    def changed(self) -> list[Tensor]:
        """The tensors it is given and changes."""
        arguments = self.call._schema.arguments
        values = dict(zip((argument.name for argument in arguments), self.given, strict=False)) | self.named
        changing = [values.get(a.name) for a in arguments if a.alias_info is not None and a.alias_info.is_write]
        return tensors(changing)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors it has to do with."""
        return self.reads + self.made

    @property
    def moves(self) -> bool:
        """Whether its results can lie nowhere but in new memory, and are large enough for a copy to be a waste.

        Where PyTorch has an overload to write into what it is given, that may be one made by a machine, which copies.
        """
        if self.writes or self.name in _COPIES | _ZEROS | FRESH:
            return False
        has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
        large = any(part.untyped_storage().nbytes() >= WORTH_MOVING for part in self.made)
        return large and not any(has_kernel(out.name(), "CPU") for out, _ in _into(self.call))


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors in what an operator takes or returns: they lie in lists at the most."""
    if isinstance(value, Tensor):
        return [value]
    return [part for item in value for part in tensors(item)] if isinstance(value, tuple | list) else []


def aliases(value: Any) -> Any:
    """Return what an operator takes with other tensors on the same memory, whose place may be changed."""
    if isinstance(value, Tensor):
        return value.detach()
    return type(value)(map(aliases, value)) if isinstance(value, tuple | list) else value


def place(part: Tensor) -> int:
    """Return the address of a tensor's memory, by which its aliases are known."""
    return part.untyped_storage().data_ptr()


def done_again(operation: Operation) -> Call:
    """Do an operation again, into the memory where its results lay, and return the quickest call that does.

    PyTorch's own functions take a microsecond less to call than its operators do; not all of them have one. Signatures
    do not tell which of them will do, so they are tried.
    """
    ways = _ways(operation)
    for way in ways[:-1]:
        try:
            way()
        except (TypeError, RuntimeError):  # no such arguments
            continue
        return way
    ways[-1]()
    return ways[-1]


def _ways(operation: Operation) -> list[Call]:
    call, given, named, made = operation.call, operation.given, operation.named, operation.made
    if operation.writes:
        homes = [home for home in (Tensor, torch) if hasattr(home, operation.name)]
        doing = [*(getattr(home, operation.name) for home in homes), call]
        return [partial(way, *given, **named) for way in doing]
    if operation.name in _COPIES:
        return [partial(Tensor.copy_, made[0], given[0])]
    if operation.name in _ZEROS:
        return [partial(Tensor.zero_, made[0])]
    ways: list[Call] = []
    if operation.whole:
        if len(made) == 1 and hasattr(torch, operation.name):
            ways.append(partial(getattr(torch, operation.name), *given, **named, out=made[0]))
        outs = [(out, dict(zip(names, made, strict=True))) for out, names in _into(call) if len(names) == len(made)]
        ways += [partial(out, *given, **named, **into) for out, into in outs]
    return [*ways, partial(_copied, call, given, named, made)]


def moved_again(operation: Operation, parts: list[list[Tensor]]) -> Call:
    """Return the call that does an operation again and lets all aliases of each result lie where the new one lies."""
    call, given, named = operation.call, operation.given, operation.named
    forms = [[(part, part.storage_offset(), part.shape, part.stride()) for part in aliases] for aliases in parts]

    def work() -> None:
        for result, aliases in zip(tensors(call(*given, **named)), forms, strict=True):
            storage = result.untyped_storage()
            for part, *form in aliases:
                part.set_(storage, *form)

    work()
    return work


def _into(call: Any) -> list[tuple[Any, list[str]]]:
    """Return the overload of an operator that writes into tensors it is given, and their names."""
    wanted = [(argument.name, str(argument.type)) for argument in call._schema.arguments]
    found: list[tuple[Any, list[str]]] = []
    for name in call.overloadpacket.overloads():
        arguments = getattr(call.overloadpacket, name)._schema.arguments
        outs = [argument.name for argument in arguments if argument.is_out]
        if outs and [(a.name, str(a.type)) for a in arguments if not a.is_out] == wanted:
            found.append((getattr(call.overloadpacket, name), outs))
    return found


def _copied(call: Any, given: Any, named: Any, made: list[Tensor]) -> None:
    for result, value in zip(made, tensors(call(*given, **named)), strict=True):
        result.copy_(value)
