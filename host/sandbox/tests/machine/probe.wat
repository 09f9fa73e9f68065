;; A state machine that does what its caller says: the first letter of the method chooses, the payload is SQL.
;; Words in braces are filled in by probe.rs.
(module
  (import "telegraft:machine/store@0.1.0" "execute" (func $execute (param i32 i32 i32 i32 i32)))
  (import "telegraft:machine/store@0.1.0" "query" (func $query (param i32 i32 i32 i32 i32)))
  (import "telegraft:machine/log@0.1.0" "write" (func $log (param i32 i32 i32)))
  (memory (export "memory") 4)
  (global $heap (mut i32) (i32.const 0x10000))
  (global $calls (mut i64) (i64.const 0))

  ;; 0x100: where the store answers; 0x200: where exports answer; 0x300: one parameter; 0x380: eight bytes of reply
  (data (i32.const 0x400) "own failure")
  (data (i32.const 0x480) "a line for the log")
  (data (i32.const 0x500) "CREATE TABLE undone(x)")
  (data (i32.const 0x1000) "{name}")
  (data (i32.const 0x1100) "{version}")
  (data (i32.const 0x2000) "{init_first}")
  (data (i32.const 0x3000) "{init_second}")
  (data (i32.const 0x3800) "{downgrade}")
  (data (i32.const 0x4000) "{service}")

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

  ;; After each answer is read, the memory is as new.
  (func $forget (param i32) (global.set $heap (i32.const 0x10000)))
  (export "cabi_post_telegraft:machine/machine@0.1.0#apply" (func $forget))
  (export "cabi_post_telegraft:machine/machine@0.1.0#query" (func $forget))
  (export "cabi_post_telegraft:machine/machine@0.1.0#init" (func $forget))

  (func (export "telegraft:machine/machine@0.1.0#describe") (result i32)
    {describe}
    (i32.store (i32.const 0x200) (i32.const 0x1000))
    (i32.store (i32.const 0x204) (i32.const {name_len}))
    (i32.store (i32.const 0x208) (i32.const 0x1100))
    (i32.store (i32.const 0x20c) (i32.const {version_len}))
    (i32.store (i32.const 0x210) (i32.const {schema}))
    (i32.store (i32.const 0x214) (i32.const 0x4000))
    (i32.store (i32.const 0x218) (i32.const {service_len}))
    (i32.const 0x200))

  (func $ok (param $ptr i32) (param $len i32) (result i32)
    (i32.store8 (i32.const 0x200) (i32.const 0))
    (i32.store (i32.const 0x204) (local.get $ptr))
    (i32.store (i32.const 0x208) (local.get $len))
    (i32.const 0x200))

  (func $ok_number (param $n i64) (result i32)
    (i64.store (i32.const 0x380) (local.get $n))
    (call $ok (i32.const 0x380) (i32.const 8)))

  (func $failure (param $code i32) (param $ptr i32) (param $len i32) (result i32)
    (i32.store8 (i32.const 0x200) (i32.const 1))
    (i32.store8 (i32.const 0x204) (local.get $code))
    (i32.store (i32.const 0x208) (local.get $ptr))
    (i32.store (i32.const 0x20c) (local.get $len))
    (i32.const 0x200))

  ;; The store's error at 0x100 as a failure: constraint 1 (not-found), invalid 0, denied 3, too-large 6.
  (func $store_failure (param $at i32) (result i32)
    (local $code i32)
    (local.set $code (i32.load8_u (local.get $at)))
    (call $failure
      (i32.load8_u (i32.add (i32.const 0x3f0) (local.get $code)))
      (i32.load (i32.add (local.get $at) (i32.const 4)))
      (i32.load (i32.add (local.get $at) (i32.const 8)))))
  (data (i32.const 0x3f0) "\01\00\03\06")

  (func $run (param $sql i32) (param $len i32)
    (call $execute (local.get $sql) (local.get $len) (i32.const 0x300) (i32.const 0) (i32.const 0x100)))

  (func (export "telegraft:machine/machine@0.1.0#init")
      (param i64 i64 i64 i64) (param $some i32) (param $from i32) (result i32)
    {init}
    (if (i32.const {init_first_len})
      (then
        (call $run (i32.const 0x2000) (i32.const {init_first_len}))
        (if (i32.load8_u (i32.const 0x100)) (then (return (call $store_failure (i32.const 0x108)))))))
    (if (i32.const {init_second_len})
      (then
        ;; the one parameter: from-schema, or null
        (i32.store8 (i32.const 0x300) (local.get $some))
        (i64.store (i32.const 0x308) (i64.extend_i32_u (local.get $from)))
        (call $execute (i32.const 0x3000) (i32.const {init_second_len}) (i32.const 0x300) (i32.const 1) (i32.const 0x100))
        (if (i32.load8_u (i32.const 0x100)) (then (return (call $store_failure (i32.const 0x108)))))))
    (call $ok (i32.const 0) (i32.const 0)))

  ;; Only a probe that downgrades exports it, under its name.
  (func {downgrade_export}
      (param i64 i64 i64 i64) (param $to i32) (result i32)
    (call $run (i32.const 0x3800) (i32.const {downgrade_len}))
    (if (i32.load8_u (i32.const 0x100)) (then (return (call $store_failure (i32.const 0x108)))))
    (call $ok (i32.const 0) (i32.const 0)))

  (func $call (param $index i64) (param $time i64) (param $high i64) (param $low i64)
      (param $method i32) (param $method_len i32) (param $sql i32) (param $len i32) (result i32)
    (local $letter i32) (local $value i32)
    (local.set $letter (i32.load8_u (local.get $method)))
    (global.set $calls (i64.add (global.get $calls) (i64.const 1)))
    {call}

    ;; context: the reply is the four numbers
    (if (i32.eq (local.get $letter) (i32.const 99)) ;; c
      (then
        (i64.store (i32.const 0x380) (local.get $index))
        (i64.store (i32.const 0x388) (local.get $time))
        (i64.store (i32.const 0x390) (local.get $high))
        (i64.store (i32.const 0x398) (local.get $low))
        (return (call $ok (i32.const 0x380) (i32.const 32)))))
    ;; memory: how many calls this instance has had
    (if (i32.eq (local.get $letter) (i32.const 109)) ;; m
      (then (return (call $ok_number (global.get $calls)))))
    ;; long: 150,000 bytes of reply; huge: more than there is memory for replies
    (if (i32.eq (local.get $letter) (i32.const 108)) ;; l
      (then (return (call $ok (i32.const 0x10000) (i32.const 150000)))))
    (if (i32.eq (local.get $letter) (i32.const 104)) ;; h
      (then
        (drop (memory.grow (i32.const 100)))
        (return (call $ok (i32.const 0) (i32.const 6000000)))))
    ;; 4: more memory than 32 bits can address; the reply is what the instruction says
    (if (i32.eq (local.get $letter) (i32.const 52)) ;; 4
      (then (return (call $ok_number (i64.extend_i32_s (memory.grow (i32.const 65536)))))))
    ;; wild: an answer outside of the memory
    (if (i32.eq (local.get $letter) (i32.const 119)) ;; w
      (then (return (call $ok (i32.const 0x7fff0000) (i32.const 100)))))
    ;; query: the first value of the result
    (if (i32.eq (local.get $letter) (i32.const 113)) ;; q
      (then
        (call $query (local.get $sql) (local.get $len) (i32.const 0x300) (i32.const 0) (i32.const 0x100))
        (if (i32.load8_u (i32.const 0x100)) (then (return (call $store_failure (i32.const 0x104)))))
        (local.set $value (i32.load (i32.const 0x10c)))
        (if (i32.eqz (i32.load (i32.const 0x110))) (then (return (call $ok (i32.const 0) (i32.const 0)))))
        (if (i32.eqz (i32.load8_u (local.get $value))) (then (return (call $ok (i32.const 0) (i32.const 0)))))
        (if (i32.lt_u (i32.load8_u (local.get $value)) (i32.const 3))
          (then (return (call $ok (i32.add (local.get $value) (i32.const 8)) (i32.const 8)))))
        (return (call $ok
          (i32.load (i32.add (local.get $value) (i32.const 8)))
          (i32.load (i32.add (local.get $value) (i32.const 12)))))))

    ;; ddl: changes the schema, queries, and refuses
    (if (i32.eq (local.get $letter) (i32.const 100)) ;; d
      (then
        (call $run (i32.const 0x500) (i32.const 22))
        (if (i32.load8_u (i32.const 0x100)) (then (return (call $store_failure (i32.const 0x108)))))
        (call $query (local.get $sql) (local.get $len) (i32.const 0x300) (i32.const 0) (i32.const 0x100))
        (return (call $failure (i32.const 2) (i32.const 0x400) (i32.const 11)))))
    ;; all others begin by executing the payload
    (call $run (local.get $sql) (local.get $len))
    ;; twice: once more
    (if (i32.eq (local.get $letter) (i32.const 50)) ;; 2
      (then (call $run (local.get $sql) (local.get $len))))
    ;; ignore: whatever the store said
    (if (i32.eq (local.get $letter) (i32.const 105)) ;; i
      (then (return (call $ok (i32.const 0) (i32.const 0)))))
    (if (i32.load8_u (i32.const 0x100)) (then (return (call $store_failure (i32.const 0x108)))))
    (call $log (i32.const 0) (i32.const 0x480) (i32.const 18))
    (if (i32.eq (local.get $letter) (i32.const 102)) ;; f: own failure, already-exists
      (then (return (call $failure (i32.const 2) (i32.const 0x400) (i32.const 11)))))
    (if (i32.eq (local.get $letter) (i32.const 116)) ;; t: trap
      (then (unreachable)))
    (if (i32.eq (local.get $letter) (i32.const 115)) ;; s: spin
      (then (loop $forever (br $forever))))
    (if (i32.eq (local.get $letter) (i32.const 103)) ;; g: grow over the budget
      (then (drop (memory.grow (i32.const 20000)))))
    (if (i32.eq (local.get $letter) (i32.const 114)) ;; r: recurse
      (then (return (call $call (local.get $index) (local.get $time) (local.get $high) (local.get $low)
        (local.get $method) (local.get $method_len) (local.get $sql) (local.get $len)))))
    (call $ok_number (i64.load (i32.const 0x108))))
  (export "telegraft:machine/machine@0.1.0#apply" (func $call))
  (export "telegraft:machine/machine@0.1.0#query" (func $call))
)
