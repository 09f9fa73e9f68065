//! How hard a module is to compile, from its bytes, before it is compiled.
//!
//! The compiler has no bound of its own, and some of its passes take more than linear time: register allocation goes with
//! locals times branches, control flow with the depth of nesting. A module of some hundred kilobytes can be made that
//! takes hours and gigabytes to compile, and a host that took it in would be gone. So what is far beyond any program that
//! people write, or compile an interpreter to, is refused. The bounds are constants, so every host refuses the same.

use wasmparser::{FunctionBody, Operator, Parser, Payload};

/// Functions of all core modules together. A Python module (CPython) has 13,500, a JavaScript one (SpiderMonkey) up to
/// 20,000; a Rust module some hundred.
const FUNCTIONS_MAX: u64 = 50_000;

/// Bytes of one function's code. CPython's largest has 427,000.
const FUNCTION_BYTES_MAX: usize = 1 << 20;

/// Blocks, loops and ifs around one instruction. CPython has up to 781.
const NESTING_MAX: u64 = 3_000;

/// Locals times branches, of all functions together. SpiderMonkey has 7,700,000.
const LOCALS_BY_BRANCHES_MAX: u64 = 25_000_000;

/// What a module adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Complexity {
    pub functions: u64,
    /// Of the largest function.
    pub function_bytes: usize,
    /// Of the deepest function.
    pub nesting: u64,
    pub locals_by_branches: u64,
}

/// Why a module is too hard to compile, if it is. What is no valid Wasm is not judged here.
pub(crate) fn too_complex(bytes: &[u8]) -> Option<String> {
    let c = complexity(bytes);
    let over = |what: &str, is: u64, max: u64| (is > max).then(|| format!("{what}: {is}, and at most {max} are taken"));
    over("functions", c.functions, FUNCTIONS_MAX)
        .or_else(|| over("bytes of one function", c.function_bytes as u64, FUNCTION_BYTES_MAX as u64))
        .or_else(|| over("blocks in each other", c.nesting, NESTING_MAX))
        .or_else(|| over("locals times branches, of all functions", c.locals_by_branches, LOCALS_BY_BRANCHES_MAX))
}

/// Counts until something is beyond its bound, or no longer valid.
pub(crate) fn complexity(bytes: &[u8]) -> Complexity {
    let mut sum = Complexity::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let Ok(Payload::CodeSectionEntry(body)) = payload else {
            if payload.is_err() {
                break;
            }
            continue;
        };
        sum.functions += 1;
        sum.function_bytes = sum.function_bytes.max(body.as_bytes().len());
        if sum.functions > FUNCTIONS_MAX || sum.function_bytes > FUNCTION_BYTES_MAX {
            break;
        }
        let Some((nesting, locals_by_branches)) = function(&body) else {
            break;
        };
        sum.nesting = sum.nesting.max(nesting);
        sum.locals_by_branches = sum.locals_by_branches.saturating_add(locals_by_branches);
        if sum.nesting > NESTING_MAX || sum.locals_by_branches > LOCALS_BY_BRANCHES_MAX {
            break;
        }
    }
    sum
}

/// The depth of nesting, and locals times branches.
fn function(body: &FunctionBody<'_>) -> Option<(u64, u64)> {
    let mut locals = 0_u64;
    for group in body.get_locals_reader().ok()? {
        locals = locals.saturating_add(u64::from(group.ok()?.0));
    }
    let (mut depth, mut deepest, mut branches) = (0_u64, 0_u64, 1_u64);
    for operator in body.get_operators_reader().ok()? {
        match operator.ok()? {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => {
                depth += 1;
                deepest = deepest.max(depth);
                branches += 1;
            }
            Operator::End => depth = depth.saturating_sub(1),
            Operator::Else | Operator::Br { .. } | Operator::BrIf { .. } => branches += 1,
            Operator::BrTable { targets } => branches += u64::from(targets.len()),
            _ => (),
        }
    }
    Some((deepest, locals.saturating_mul(branches)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(functions: impl IntoIterator<Item = String>) -> Vec<u8> {
        let functions: String = functions.into_iter().collect();
        wat::parse_str(format!("(module {functions})")).expect("a module")
    }

    #[test]
    fn each_bound_holds_and_what_is_within_passes() {
        let nested = |depth: usize| format!("(func {} {})", "(block ".repeat(depth), ")".repeat(depth));
        let wide = |locals: usize, branches: usize| {
            format!("(func (local {}) {})", "i64 ".repeat(locals), "(block)".repeat(branches))
        };
        assert_eq!(too_complex(&module([nested(500), wide(1_000, 1_000)])), None);
        assert!(too_complex(&module([nested(4_000)])).unwrap().contains("blocks in each other"));
        assert!(too_complex(&module([wide(5_000, 6_000)])).unwrap().contains("locals times branches"));
        // Many that are each within it.
        assert!(too_complex(&module((0..30).map(|_| wide(1_000, 1_000)))).unwrap().contains("locals times branches"));
        assert!(too_complex(&module((0..50_001).map(|_| "(func)".to_owned()))).unwrap().contains("functions: 50001"));
        let long = format!("(func {})", "(drop (i64.const -1))".repeat(400_000));
        assert!(too_complex(&module([long])).unwrap().contains("bytes of one function"));
        assert_eq!(too_complex(b"no Wasm"), None);
    }

    #[test]
    fn modules_of_this_repository_are_far_from_the_bounds() {
        for (name, bytes) in telegraft_modules::ALL {
            let c = complexity(bytes);
            assert!(c.functions > 10 && c.functions < FUNCTIONS_MAX / 50, "{name}: {c:?}");
            assert!(c.locals_by_branches < LOCALS_BY_BRANCHES_MAX / 50, "{name}: {c:?}");
        }
    }
}
