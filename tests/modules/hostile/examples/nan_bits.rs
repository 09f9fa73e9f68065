//! Tries: to see the payload bits of a NaN, which differ between processors. Outcome: every NaN that is computed is the
//! canonical one.

use guest_hostile::{Attack, Context, Failure, Store};

pub struct NanBits;

guest_hostile::module!(crate::NanBits);

impl Attack for NanBits {
    const NAME: &'static str = "nan_bits";

    #[allow(clippy::eq_op, reason = "NaNs are what it wants")]
    fn attack(_: &dyn Store, _: &Context, _: &[u8]) -> Result<Vec<u8>, Failure> {
        let (zero, infinite) = (std::hint::black_box(0.0_f64), std::hint::black_box(f64::INFINITY));
        let odd = std::hint::black_box(f64::from_bits(0xfff4_dead_beef_0001));
        let computed = [zero / zero, infinite - infinite, (zero - 1.0).sqrt(), odd + 1.0, odd * zero];
        let mut bits: Vec<u64> = computed.iter().map(|number| std::hint::black_box(*number).to_bits()).collect();
        bits.dedup();
        let single = std::hint::black_box(f32::from_bits(0xffa0_beef)) + 1.0;
        Ok(format!("{bits:016x?} {:08x}", std::hint::black_box(single).to_bits()).into_bytes())
    }
}
