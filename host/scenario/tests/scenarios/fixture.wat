;; A state machine that offers the key-value service and stores nothing. Its answer to everything is a number: a fixed one,
;; or how many calls this instance has had. Words in braces are filled in by fixture.rs.
(module
  (import "telegraft:machine/store@0.1.0" "execute" (func $execute (param i32 i32 i32 i32 i32)))
  (import "telegraft:machine/store@0.1.0" "query" (func $query (param i32 i32 i32 i32 i32)))
  (import "telegraft:machine/log@0.1.0" "write" (func $log (param i32 i32 i32)))
  (memory (export "memory") 4)
  (global $heap (mut i32) (i32.const 0x20000))
  (global $calls (mut i32) (i32.const 0))
  (data (i32.const 0x1000) "kv")
  (data (i32.const 0x1100) "{version}")
  (data (i32.const 0x1200) "the data cannot be taken over")
  (data (i32.const 0x4000) "{service}")

  (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $new i32)
    (local.set $new (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
    (global.set $heap (i32.add (local.get $new) (local.get $size)))
    (if (i32.gt_u (global.get $heap) (i32.const 0x40000)) (then (unreachable)))
    (local.get $new))

  ;; After each answer is read, the heap is as new; the count of calls is not.
  (func $forget (param i32) (global.set $heap (i32.const 0x20000)))
  (export "cabi_post_telegraft:machine/machine@0.1.0#apply" (func $forget))
  (export "cabi_post_telegraft:machine/machine@0.1.0#query" (func $forget))

  (func (export "telegraft:machine/machine@0.1.0#describe") (result i32)
    (i32.store (i32.const 0x200) (i32.const 0x1000))
    (i32.store (i32.const 0x204) (i32.const 2))
    (i32.store (i32.const 0x208) (i32.const 0x1100))
    (i32.store (i32.const 0x20c) (i32.const {version_len}))
    (i32.store (i32.const 0x210) (i32.const {schema}))
    (i32.store (i32.const 0x214) (i32.const 0x4000))
    (i32.store (i32.const 0x218) (i32.const {service_len}))
    (i32.const 0x200))

  (func (export "telegraft:machine/machine@0.1.0#init")
      (param i64 i64 i64 i64) (param $some i32) (param $from i32) (result i32)
    (i32.store8 (i32.const 0x200) (i32.const {init_fails}))
    (i32.store8 (i32.const 0x204) (i32.const 4)) ;; failed-precondition
    (i32.store (i32.const 0x208) (i32.const 0x1200))
    (i32.store (i32.const 0x20c) (i32.const 29))
    (i32.const 0x200))

  ;; A message of one field, a number below 128.
  (func $answer (param $field i32) (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (i32.store8 (i32.const 0x380) (i32.shl (local.get $field) (i32.const 3)))
    (i32.store8 (i32.const 0x381) (i32.and (i32.const 127) {number}))
    (i32.store8 (i32.const 0x200) (i32.const 0))
    (i32.store (i32.const 0x204) (i32.const 0x380))
    (i32.store (i32.const 0x208) (i32.const 2))
    (i32.const 0x200))

  ;; PutReply.version is field 1, GetReply.version is field 2.
  (func (export "telegraft:machine/machine@0.1.0#apply")
      (param i64 i64 i64 i64) (param i32 i32 i32 i32) (result i32)
    (call $answer (i32.const 1)))
  (func (export "telegraft:machine/machine@0.1.0#query")
      (param i64 i64 i64 i64) (param i32 i32 i32 i32) (result i32)
    (call $answer (i32.const 2))))
