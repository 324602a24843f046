/// A sequence number that wraps around, compared as RFC 1982 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Serial(pub u32);

impl Serial {
    /// The number `by` later.
    #[must_use]
    pub fn plus(self, by: u32) -> Self {
        Self(self.0.wrapping_add(by))
    }

    /// Whether this number comes before `other`.
    pub fn before(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Steps from `earlier` to this number.
    pub fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_holds_across_the_wrap() {
        let last = Serial(u32::MAX);
        assert!(last.before(last.plus(1)) && !last.plus(1).before(last));
        assert!(!last.before(last));
        assert_eq!(last.plus(3).since(last), 3);
    }
}
