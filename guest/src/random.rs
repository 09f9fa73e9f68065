//! Random numbers from the log entry: equal on every replica, because they are computed from the entry's entropy.
//!
//! The generator is xoshiro256++ (Blackman and Vigna, "Scrambled Linear Pseudorandom Number Generators", 2021), seeded as
//! its authors advise, by splitmix64. It is fair, not secret: who reads the log can compute every number.

use crate::Context;

/// What one step of splitmix64 adds.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A sequence of random numbers; [`Command::random`](crate::Command::random) gives one.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The `stream`th sequence of an entry: equal contexts and streams give equal numbers, different ones unrelated ones.
    pub fn new(context: &Context, stream: u64) -> Self {
        let (high, low) = context.entropy;
        let mut seed = mix(high).wrapping_add(mix(mix(low).wrapping_add(stream)));
        let mut state = [0; 4];
        for word in &mut state {
            seed = seed.wrapping_add(GOLDEN_GAMMA);
            *word = mix(seed);
        }
        // Four words of zero, the one state that leads nowhere, cannot be: `mix` takes one seed alone to zero.
        Self { state }
    }

    /// 64 random bits.
    pub fn draw(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let drawn = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        drawn
    }

    /// A number from 0 to `bound` - 1, each as likely as any other; 0 for a `bound` of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of a product of 128 bits, drawn anew where the low half falls into the part that would be drawn
        // once too often (Lemire, "Fast Random Integer Generation in an Interval", 2019).
        let surplus = bound.wrapping_neg().checked_rem(bound).unwrap_or(0);
        loop {
            let product = u128::from(self.draw()) * u128::from(bound);
            if product as u64 >= surplus {
                return (product >> 64) as u64;
            }
        }
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let drawn = self.draw().to_le_bytes();
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
    }

    /// One of `items`, `None` where there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }

    /// Puts `items` into random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

/// A 64-bit finalizer: every bit of the input sways every bit of the output (the constants are those of splitmix64).
pub(crate) fn mix(mut bits: u64) -> u64 {
    bits ^= bits >> 30;
    bits = bits.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^= bits >> 27;
    bits = bits.wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(entropy: (u64, u64), stream: u64) -> Random {
        Random::new(&Context { index: 1, time_us: 1, entropy }, stream)
    }

    #[test]
    fn the_generator_is_xoshiro256_plus_plus() {
        // The reference implementation's first numbers from the state 1, 2, 3, 4.
        let mut random = Random { state: [1, 2, 3, 4] };
        let drawn: Vec<u64> = (0..4).map(|_| random.draw()).collect();
        assert_eq!(drawn, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn equal_entries_draw_equal_numbers_and_others_do_not() {
        let drawn = |entropy, stream| {
            let mut random = random(entropy, stream);
            [random.draw(), random.draw(), random.draw()]
        };
        assert_eq!(drawn((1, 2), 0), drawn((1, 2), 0));
        let mut all = vec![drawn((0, 0), 0), drawn((2, 1), 0)];
        all.extend((0..8).map(|stream| drawn((1, 2), stream)));
        all.extend((0..64).flat_map(|bit| [drawn((1 ^ (1 << bit), 2), 9), drawn((1, 2 ^ (1 << bit)), 9)]));
        let different: std::collections::BTreeSet<_> = all.iter().flatten().collect();
        assert_eq!(different.len(), 3 * all.len());
    }

    #[test]
    fn numbers_below_a_bound_are_all_drawn_about_equally_often() {
        let mut random = random((7, 7), 0);
        let mut counts = [0_u32; 6];
        for _ in 0..60_000 {
            counts[random.below(6) as usize] += 1;
        }
        // Six standard deviations.
        assert!(counts.iter().all(|count| (9_450..10_550).contains(count)), "{counts:?}");
        assert!((0..1_000).all(|_| random.below(u64::MAX / 2 + 2) < u64::MAX / 2 + 2));
        assert_eq!((random.below(1), random.below(0)), (0, 0));
    }

    #[test]
    fn bytes_picks_and_orders() {
        let mut random = random((1, 1), 3);
        let mut bytes = [0; 21];
        random.fill(&mut bytes);
        assert!(bytes.windows(5).all(|five| five != [0; 5]), "{bytes:?}");
        assert_eq!(random.pick::<u8>(&[]), None);
        let mut picked: Vec<u8> = (0..200).filter_map(|_| random.pick(&[1, 2, 3]).copied()).collect();
        picked.sort_unstable();
        picked.dedup();
        assert_eq!(picked, [1, 2, 3]);
        let mut items: Vec<u32> = (0..50).collect();
        random.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
