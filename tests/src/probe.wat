;; A state machine that does what its caller says: the first letter of the method chooses, the payload is SQL. Words in
;; braces are filled in by probe.rs.
;;
;;   run/…      executes the payload; the reply is the module's version, as it is of every method below
;;   version/…  touches nothing
;;   loop/…     never ends
;;   query/…    queries the payload; the reply is the first value: a text, or a number as eight bytes
(module
  (import "telegraft:machine/store@0.1.0" "execute" (func $execute (param i32 i32 i32 i32 i32)))
  (import "telegraft:machine/store@0.1.0" "query" (func $query (param i32 i32 i32 i32 i32)))
  (memory (export "memory") 4)
  (global $heap (mut i32) (i32.const 0x10000))

  ;; 0x100: where the store answers; 0x200: where exports answer
  (data (i32.const 0x1000) "{name}")
  (data (i32.const 0x1100) "{version}")
  (data (i32.const 0x2000) "{init}")
  (data (i32.const 0x3000) "{downgrade}")

  (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $new i32) (local $end i32)
    (local.set $new (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
    (local.set $end (i32.add (local.get $new) (local.get $size)))
    (if (i32.gt_u (local.get $end) (i32.mul (memory.size) (i32.const 65536)))
      (then
        (if (i32.eq (i32.const -1)
              (memory.grow (i32.add (i32.const 1) (i32.div_u (local.get $size) (i32.const 65536)))))
          (then (unreachable)))))
    (global.set $heap (local.get $end))
    (memory.copy (local.get $new) (local.get $old)
      (select (local.get $old_size) (local.get $size) (i32.lt_u (local.get $old_size) (local.get $size))))
    (local.get $new))

  (func (export "telegraft:machine/machine@0.1.0#describe") (result i32)
    (i32.store (i32.const 0x200) (i32.const 0x1000))
    (i32.store (i32.const 0x204) (i32.const {name_len}))
    (i32.store (i32.const 0x208) (i32.const 0x1100))
    (i32.store (i32.const 0x20c) (i32.const {version_len}))
    (i32.store (i32.const 0x210) (i32.const {schema}))
    (i32.store (i32.const 0x214) (i32.const 0))
    (i32.store (i32.const 0x218) (i32.const 0))
    (i32.const 0x200))

  (func $ok (param $ptr i32) (param $len i32) (result i32)
    (i32.store8 (i32.const 0x200) (i32.const 0))
    (i32.store (i32.const 0x204) (local.get $ptr))
    (i32.store (i32.const 0x208) (local.get $len))
    (i32.const 0x200))

  ;; The store's error, whose text is at the pointer and length found at $at, as the failure failed-precondition.
  (func $failure (param $at i32) (result i32)
    (i32.store8 (i32.const 0x200) (i32.const 1))
    (i32.store8 (i32.const 0x204) (i32.const 4))
    (i32.store (i32.const 0x208) (i32.load (local.get $at)))
    (i32.store (i32.const 0x20c) (i32.load (i32.add (local.get $at) (i32.const 4))))
    (i32.const 0x200))

  ;; Executes a statement, where there is one.
  (func $run (param $sql i32) (param $len i32) (result i32)
    (if (local.get $len)
      (then
        (call $execute (local.get $sql) (local.get $len) (i32.const 0x300) (i32.const 0) (i32.const 0x100))
        (if (i32.load8_u (i32.const 0x100)) (then (return (call $failure (i32.const 0x10c)))))))
    (call $ok (i32.const 0x1100) (i32.const {version_len})))

  (func (export "telegraft:machine/machine@0.1.0#init") (param i64 i64 i64 i64 i32 i32) (result i32)
    (call $run (i32.const 0x2000) (i32.const {init_len})))

  (func $to_older (param i64 i64 i64 i64 i32) (result i32)
    (call $run (i32.const 0x3000) (i32.const {downgrade_len})))
  {export_downgrade}

  (func $call (param i64 i64 i64 i64) (param $method i32) (param $method_len i32) (param $sql i32) (param $len i32)
      (result i32)
    (local $letter i32) (local $value i32)
    (local.set $letter (i32.load8_u (local.get $method)))
    (if (i32.eq (local.get $letter) (i32.const 0x6c)) ;; l
      (then (loop $forever (br $forever))))
    (if (i32.eq (local.get $letter) (i32.const 0x76)) ;; v
      (then (return (call $ok (i32.const 0x1100) (i32.const {version_len})))))
    (if (i32.eq (local.get $letter) (i32.const 0x72)) ;; r
      (then (return (call $run (local.get $sql) (local.get $len)))))
    (call $query (local.get $sql) (local.get $len) (i32.const 0x300) (i32.const 0) (i32.const 0x100))
    (if (i32.load8_u (i32.const 0x100)) (then (return (call $failure (i32.const 0x108)))))
    (local.set $value (i32.load (i32.const 0x10c)))
    ;; no value, or null
    (if (i32.eqz (i32.load (i32.const 0x110))) (then (return (call $ok (i32.const 0) (i32.const 0)))))
    (if (i32.eqz (i32.load8_u (local.get $value))) (then (return (call $ok (i32.const 0) (i32.const 0)))))
    ;; integer and real; else a text or blob
    (if (i32.lt_u (i32.load8_u (local.get $value)) (i32.const 3))
      (then (return (call $ok (i32.add (local.get $value) (i32.const 8)) (i32.const 8)))))
    (call $ok
      (i32.load (i32.add (local.get $value) (i32.const 8)))
      (i32.load (i32.add (local.get $value) (i32.const 12)))))
  (export "telegraft:machine/machine@0.1.0#apply" (func $call))
  (export "telegraft:machine/machine@0.1.0#query" (func $call))
)
