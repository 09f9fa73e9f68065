"""The module's face to the host: the exports of the WIT world `state-machine`, and the host's store behind `Store`.

Imported only inside the component, where the bindings (`wit_world`) exist.
"""

import importlib
import io
import sys

import componentize_py_types
import telegraft_description
from wit_world import exports
from wit_world.exports.machine import Description
from wit_world.imports import log, store, types

from . import Context, Failure, Store, StoreError

project = importlib.import_module(telegraft_description.MAIN)

_ERROR_KINDS = {
    store.Error_Constraint: "constraint",
    store.Error_Invalid: "invalid",
    store.Error_Denied: "denied",
    store.Error_TooLarge: "too-large",
}

_NULL = store.Value_Null()


def _value(param):
    if isinstance(param, str):
        return store.Value_Text(param)
    if isinstance(param, int):
        if not -(1 << 63) <= param < 1 << 63:
            raise StoreError("invalid", f"the parameter {param} is beyond SQLite's integers, which have 64 bits")
        return store.Value_Integer(int(param))
    if param is None:
        return _NULL
    if isinstance(param, float):
        return store.Value_Real(param)
    if isinstance(param, (bytes, bytearray, memoryview)):
        return store.Value_Blob(bytes(param))
    raise StoreError("invalid", f"a parameter is a {type(param).__name__}: want None, int, float, str or bytes")


def _refused(error):
    return StoreError(_ERROR_KINDS[type(error.value)], error.value.value)


class HostStore(Store):
    """The host's store."""

    def execute(self, sql, *params):
        try:
            return store.execute(sql, [_value(param) for param in params])
        except componentize_py_types.Err as error:
            raise _refused(error) from None

    def rows(self, sql, *params):
        try:
            found = store.query(sql, [_value(param) for param in params])
        except componentize_py_types.Err as error:
            raise _refused(error) from None
        values = [None if value.__class__ is store.Value_Null else value.value for value in found.values]
        width = len(found.columns)
        return found.columns, [tuple(values[at : at + width]) for at in range(0, len(values), width or 1)]


def _log(level, message):
    log.write(log.Level[level.upper()], message)


def _answered(answer, context, *arguments):
    context = Context(context.index, context.time_us, context.entropy)
    try:
        return answer(HostStore(), context, *arguments)
    except Failure as failure:
        code = types.FailureCode[failure.code]
        raise componentize_py_types.Err(types.Failure(code, failure.message)) from None


class Machine(exports.Machine):
    """The exported interface."""

    def describe(self):
        module = project.module
        return Description(module.name, module.version, module.schema, module.service)

    def init(self, ctx, from_schema):
        _answered(project.module.init, ctx, from_schema)

    def apply(self, ctx, method, command):
        return _answered(project.module.apply, ctx, method, command)

    def query(self, ctx, method, request):
        return _answered(project.module.read, ctx, method, request)


class _Lines(io.TextIOBase):
    """What is printed, to the host's log: there is no standard output, and to write to it would be a trap."""

    def __init__(self, level):
        self._level = level
        self._rest = ""

    def write(self, text):
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            _log(self._level, line)
        return len(text)


project.module.log = _log
# Here, at build time, so that what is missing fails the build.
project.module.check()
# From here on nothing runs before the first call, and only in a call is there a log.
sys.stdout, sys.stderr = _Lines("info"), _Lines("warn")
