// A module in memory: its real dispatch and its real statements on SQLite in Node.js (sql.js), without a host.
//
// What it does not have is the host's rules and budgets: SQL that the host refuses may work here.

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import initSqlJs from "sql.js";

import { Context, Store, StoreError } from "./index.js";

const { Database } = await initSqlJs();

/** SQLite in memory. */
export class MemoryStore extends Store {
  constructor() {
    super();
    this.database = new Database();
  }

  #run(sql, params, read) {
    let statement;
    try {
      statement = this.database.prepare(sql);
      // sql.js binds a bigint as text; an integer that a double holds exactly is better off as that.
      const isExact = (param) => typeof param === "bigint" && BigInt(Number(param)) === param;
      statement.bind(params.map((param) => (isExact(param) ? Number(param) : param)));
      return read(statement);
    } catch (error) {
      const text = error?.message ?? String(error);
      const kind = /constraint failed/.test(text) ? "constraint" : /too big/.test(text) ? "too-large" : "invalid";
      throw new StoreError(kind, text);
    } finally {
      statement?.free();
    }
  }

  execute(sql, ...params) {
    const before = this.#changes();
    this.#run(sql, params, (statement) => {
      while (statement.step());
    });
    return this.#changes() - before;
  }

  #changes() {
    return BigInt(this.database.exec("SELECT total_changes()")[0].values[0][0]);
  }

  rows(sql, ...params) {
    return this.#run(sql, params, (statement) => {
      const rows = [];
      while (statement.step()) {
        rows.push(statement.get(null, { useBigInt: true }));
      }
      return { columns: statement.getColumnNames(), rows };
    });
  }
}

/** Entries for a module, one after the other. Time and entropy follow from the entry's index alone. */
export class Machine {
  /** A machine at the module's schema; `store` is one that another module made, where that is what is tested. */
  constructor(module, store) {
    this.module = module;
    this.index = 1n;
    this.timeUs = 1_700_000_000_000_000n;
    this.store = store ?? new MemoryStore();
    if (!store) {
      this.upgrade(undefined);
    }
  }

  /** Activates the module on a store of this schema (undefined: an empty one). */
  upgrade(fromSchema) {
    this.#undoing(() => this.module.init(this.store, this.#context(), fromSchema));
  }

  /** Applies one command, named as in the .proto ("CreatePoll"), and returns the reply. Throws `Failure`. */
  apply(method, fields = {}) {
    this.index += 1n;
    this.timeUs += 1_000n;
    return this.#undoing(() => this.#call("apply", method, fields));
  }

  /** Answers one query; otherwise as `apply`. */
  read(method, fields = {}) {
    this.store.database.exec("PRAGMA query_only = true");
    try {
      return this.#call("read", method, fields);
    } finally {
      this.store.database.exec("PRAGMA query_only = false");
    }
  }

  #context() {
    return new Context(this.index, this.timeUs, [BigInt.asUintN(64, this.index * 0x9e3779b97f4a7c15n), this.index]);
  }

  #call(answer, name, fields) {
    const { path, input, output } = this.module.method(name);
    const request = toBinary(input, create(input, fields));
    return fromBinary(output, this.module[answer](this.store, this.#context(), path, request));
  }

  /** What an entry wrote is undone where it fails, as the host does it. */
  #undoing(run) {
    this.store.database.exec("SAVEPOINT entry");
    try {
      return run();
    } catch (error) {
      this.store.database.exec("ROLLBACK TO entry");
      throw error;
    } finally {
      this.store.database.exec("RELEASE entry");
    }
  }
}
