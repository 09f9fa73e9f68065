"""Messages from bytes and back, by the pure-Python implementation of `protobuf`: classes are made from the service's
descriptors when the component is built, so there is no generated code and nothing left to import at run time.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

_NO_SIDE_EFFECTS = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS


class Malformed(Exception):
    """Bytes that are no such message."""


class Method:
    """A method of the service: its name, its path ("poll.v1.Polls/CreatePoll"), whether it is a query, and the classes
    of its messages."""

    def __init__(self, service, descriptor, message_class):
        self.name = descriptor.name
        self.path = f"{service}/{descriptor.name}"
        self.is_query = descriptor.options.idempotency_level == _NO_SIDE_EFFECTS
        self.request = message_class(descriptor.input_type)
        self.reply = message_class(descriptor.output_type)


def methods_of(service):
    """The methods of all services in a serialized `FileDescriptorSet`, in its order."""
    files = descriptor_pb2.FileDescriptorSet.FromString(service).file
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.Add(file)

    def message_class(name):
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(name.removeprefix(".")))

    methods = []
    for file in files:
        for found in file.service:
            full_name = f"{file.package}.{found.name}" if file.package else found.name
            methods += [Method(full_name, method, message_class) for method in found.method]
    return methods


def decode(message_class, data):
    """Reads a message. Raises `Malformed`."""
    try:
        return message_class.FromString(data)
    except (DecodeError, ValueError) as error:
        # A text that is not UTF-8 is a ValueError.
        raise Malformed(str(error)) from None


def encode(message_class, fields):
    """Writes the message with these fields: a dict, with dicts and lists of them for messages in it. Raises ValueError or
    TypeError where they do not fit."""
    return message_class(**fields).SerializeToString(deterministic=True)
