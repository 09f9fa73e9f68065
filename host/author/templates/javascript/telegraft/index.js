// What a module stands on: the log entry's context, the store, refusals, and the way from a method to a function.
//
// A module is one `Module` with a function for each method of its service. The functions see the store only through
// `Store`, so they run natively too: `telegraft/testing.js` stands in for the host.

import { create, createFileRegistry, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema, MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";

// Written by `telegraft module build` from telegraft.toml and the .proto file.
import * as description from "../.telegraft/description.js";

const CODES = [
  "INVALID_ARGUMENT",
  "NOT_FOUND",
  "ALREADY_EXISTS",
  "PERMISSION_DENIED",
  "FAILED_PRECONDITION",
  "OUT_OF_RANGE",
  "RESOURCE_EXHAUSTED",
  "UNIMPLEMENTED",
  "UNAUTHENTICATED",
  "ABORTED",
  "INTERNAL",
];

/** A refusal: everything the entry did is undone, and the client gets the code and the message. */
export class Failure extends Error {
  constructor(code, message) {
    super(message);
    if (!CODES.includes(code)) {
      throw new RangeError(`${code} is no code a module may refuse with: one of ${CODES.join(", ")}`);
    }
    this.name = "Failure";
    this.code = code;
  }
}

/** The store did not do what it was told. `kind` is "constraint", "invalid", "denied" or "too-large". */
export class StoreError extends Error {
  constructor(kind, message) {
    super(message);
    this.name = "StoreError";
    this.kind = kind;
  }
}

const TAIL = (1n << 62n) - 1n;

/** What the log entry says, equal on every replica. */
export class Context {
  /**
   * `index` (of the entry in the machine's log) and `timeUs` (microseconds since the Unix epoch, never smaller than an
   * earlier entry's) are BigInts. `entropy` is two 64-bit BigInts drawn by the leader: the only source of randomness; both
   * are 0 in some reads.
   */
  constructor(index, timeUs, entropy) {
    this.index = index;
    this.timeUs = timeUs;
    this.entropy = entropy;
  }

  /** The entry's time as a Date, which has milliseconds. */
  now() {
    return new Date(Number(this.timeUs / 1000n));
  }

  /**
   * Draws ids for this entry without end: UUIDs of version 7, as text. Equal contexts give equal ids, so take one sequence a
   * call and draw from it: `const ids = context.ids(); const first = ids.next().value`.
   *
   * The head is the time (48 bits of milliseconds, 12 of 4,096ths of one), the last 62 bits the entropy, mixed, plus the
   * number of the id within the entry.
   */
  *ids() {
    const milliseconds = BigInt.asUintN(48, this.timeUs / 1000n);
    const fraction = ((this.timeUs % 1000n) * 4096n) / 1000n;
    const head = (milliseconds << 16n) | (7n << 12n) | fraction;
    const [high, low] = this.entropy;
    let tail = mix(high ^ mix(low)) & TAIL;
    for (;;) {
      const digits = ((head << 64n) | (1n << 63n) | tail).toString(16).padStart(32, "0");
      yield digits.replace(/(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
      tail = (tail + 1n) & TAIL;
    }
  }
}

/** Lets every bit of the input sway every bit of the output (splitmix64's finalizer). */
function mix(bits) {
  bits ^= bits >> 30n;
  bits = BigInt.asUintN(64, bits * 0xbf58476d1ce4e5b9n);
  bits ^= bits >> 27n;
  bits = BigInt.asUintN(64, bits * 0x94d049bb133111ebn);
  return bits ^ (bits >> 31n);
}

/**
 * SQLite. Parameters are null, bigint, number, string, boolean (as 0 or 1) or Uint8Array, in the order of the `?`; a number
 * without a fraction becomes an integer. In rows every integer is a BigInt.
 */
export class Store {
  /** Runs one statement; the number of rows it changed, a BigInt. Throws `StoreError`. */
  execute(_sql, ..._params) {
    throw new Error("not implemented");
  }

  /** Runs one statement that answers with rows: `{columns, rows}`, each row an array. Throws `StoreError`. */
  rows(_sql, ..._params) {
    throw new Error("not implemented");
  }

  /** All rows, each an object by the names of its columns. */
  query(sql, ...params) {
    const { columns, rows } = this.rows(sql, ...params);
    return rows.map((row) => Object.fromEntries(row.map((value, at) => [columns[at], value])));
  }

  /** The first row, undefined where there is none. */
  first(sql, ...params) {
    return this.query(sql, ...params)[0];
  }
}

/** Bytes of a text in UTF-8, as budgets and limits count. */
export function byteLength(text) {
  return new TextEncoder().encode(text).length;
}

/** A state machine: the functions for a service's methods, and the steps that made its tables what they are. */
export class Module {
  #migrations;
  #methods;

  /**
   * `migrations` are functions that take a `Store`: the first makes the tables of schema 1 in an empty store, the second turns
   * schema 1 into 2, and so on. The schema of the module is their number.
   *
   * `commands` and `queries` are functions by the names of their methods (`createPoll` is CreatePoll). Each takes the store,
   * the context and the request, and returns the reply's fields (nothing: all unset) or throws `Failure`. Queries are the
   * methods that the .proto marks with `option idempotency_level = NO_SIDE_EFFECTS`; the store refuses them writes.
   */
  constructor({ migrations, commands, queries }) {
    this.name = description.name;
    this.version = description.version;
    this.service = description.service;
    this.schema = migrations.length;
    /** Writes a line to the host's log: takes a level ("debug", "info", "warn", "error") and a text. */
    this.log = () => {};
    this.#migrations = migrations;
    this.#methods = methodsOf(description.service);
    for (const method of this.#methods.values()) {
      const [kind, own, other] = method.isQuery ? ["queries", queries, commands] : ["commands", commands, queries];
      if (Object.hasOwn(other, method.localName)) {
        const marked = method.isQuery ? "marks it" : "does not mark it";
        throw new Error(`${method.localName} belongs to the ${kind}: the .proto ${marked} NO_SIDE_EFFECTS`);
      }
      if (!Object.hasOwn(own, method.localName)) {
        throw new Error(`no function for ${method.name}: name ${method.localName} among the ${kind}`);
      }
      method.handler = own[method.localName];
    }
    const known = [...this.#methods.values()].map((method) => method.localName);
    for (const name of [...Object.keys(commands), ...Object.keys(queries)]) {
      if (!known.includes(name)) {
        throw new Error(`the service has no method for ${name}: it has those of ${known.join(", ")}`);
      }
    }
  }

  /** The method of this name ("CreatePoll"). */
  method(name) {
    const method = [...this.#methods.values()].find((method) => method.name === name);
    if (!method) {
      throw new Error(`the service has no method ${name}`);
    }
    return method;
  }

  /** Brings the tables from `fromSchema` (undefined: the store is empty) to this module's schema. */
  init(store, _context, fromSchema) {
    this.#guarded(() => this.#migrations.slice(fromSchema ?? 0).forEach((migration) => migration(store)));
  }

  /** Answers one command, bytes to bytes; throws nothing but `Failure`. */
  apply(store, context, path, request) {
    return this.#guarded(() => this.#answer(false, store, context, path, request));
  }

  /** Answers one query, bytes to bytes; throws nothing but `Failure`. */
  read(store, context, path, request) {
    return this.#guarded(() => this.#answer(true, store, context, path, request));
  }

  #answer(isQuery, store, context, path, bytes) {
    const method = this.#methods.get(path);
    if (method?.isQuery !== isQuery) {
      const kind = isQuery ? "queries" : "commands";
      throw new Failure("UNIMPLEMENTED", `module ${this.name} has no method "${path.slice(0, 128)}" among its ${kind}`);
    }
    let request;
    try {
      request = fromBinary(method.input, bytes);
    } catch (error) {
      throw new Failure("INVALID_ARGUMENT", `the request is malformed: ${error.message}`);
    }
    const reply = method.handler(store, context, request);
    if (typeof reply?.then === "function") {
      throw new TypeError(`the function for ${method.name} is async: nothing in a module waits for anything`);
    }
    return toBinary(method.output, create(method.output, reply ?? {}));
  }

  #guarded(run) {
    try {
      return run();
    } catch (error) {
      if (error instanceof Failure) {
        throw error;
      }
      this.log("error", `${error}\n${error?.stack ?? ""}`.trimEnd());
      if (error instanceof StoreError) {
        // Entries are applied one after the other, so a broken constraint or a bad statement is the module's own defect,
        // never a race; only a size is the caller's doing.
        throw error.kind === "too-large"
          ? new Failure("RESOURCE_EXHAUSTED", `too large for the store: ${error.message}`)
          : new Failure("INTERNAL", `the store refused: ${error.kind}: ${error.message}`);
      }
      throw new Failure("INTERNAL", `the module failed with ${error?.name ?? typeof error}; the hosts' logs say where`);
    }
  }
}

/** The methods of all services in a serialized FileDescriptorSet, by path ("poll.v1.Polls/CreatePoll"). */
function methodsOf(service) {
  const methods = new Map();
  for (const type of createFileRegistry(fromBinary(FileDescriptorSetSchema, service))) {
    if (type.kind === "service") {
      for (const { name, localName, idempotency, input, output } of type.methods) {
        const path = `${type.typeName}/${name}`;
        const isQuery = idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS;
        methods.set(path, { name, localName, path, isQuery, input, output });
      }
    }
  }
  return methods;
}
