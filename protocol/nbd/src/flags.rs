//! Flag words of the protocol, each its own type so that they cannot be mixed up.

macro_rules! flags {
    (
        $(#[$doc:meta])*
        $name:ident: $word:ty { $($(#[$bit_doc:meta])* $bit:ident = $at:literal,)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(pub $word);

        impl $name {
            $($(#[$bit_doc])* pub const $bit: Self = Self(1 << $at);)*

            /// Every bit that this crate knows.
            pub const KNOWN: Self = Self(0 $(| 1 << $at)*);

            /// No bit.
            pub const fn empty() -> Self {
                Self(0)
            }

            /// Whether all bits of `other` are set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// The bits of either.
            #[must_use]
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// These bits without those of `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }
        }

        impl std::ops::BitOr for $name {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                self.union(other)
            }
        }
    };
}

flags! {
    /// What the server offers in its greeting ("Handshake flags").
    HandshakeFlags: u16 {
        /// Options are answered, and unknown ones do no harm.
        FIXED_NEWSTYLE = 0,
        /// The 124 zeroes after `NBD_OPT_EXPORT_NAME` may be left out.
        NO_ZEROES = 1,
    }
}

flags! {
    /// What the client accepts of the greeting ("Client flags").
    ClientFlags: u32 {
        /// Options are answered, and unknown ones do no harm.
        FIXED_NEWSTYLE = 0,
        /// The 124 zeroes after `NBD_OPT_EXPORT_NAME` are left out.
        NO_ZEROES = 1,
    }
}

flags! {
    /// What an export can do ("Transmission flags").
    TransmissionFlags: u16 {
        /// Always set.
        HAS_FLAGS = 0,
        /// Writes fail with `EPERM`.
        READ_ONLY = 1,
        /// `NBD_CMD_FLUSH` is understood.
        SEND_FLUSH = 2,
        /// `NBD_CMD_FLAG_FUA` is understood.
        SEND_FUA = 3,
        /// The medium rotates.
        ROTATIONAL = 4,
        /// `NBD_CMD_TRIM` is understood.
        SEND_TRIM = 5,
        /// `NBD_CMD_WRITE_ZEROES` is understood.
        SEND_WRITE_ZEROES = 6,
        /// `NBD_CMD_FLAG_DF` is understood.
        SEND_DF = 7,
        /// Several connections see each other's writes and flushes.
        CAN_MULTI_CONN = 8,
        /// `NBD_CMD_RESIZE` is understood.
        SEND_RESIZE = 9,
        /// `NBD_CMD_CACHE` is understood.
        SEND_CACHE = 10,
        /// `NBD_CMD_FLAG_FAST_ZERO` is understood.
        SEND_FAST_ZERO = 11,
        /// `NBD_CMD_BLOCK_STATUS` may carry a list of contexts.
        BLOCK_STATUS_PAYLOAD = 12,
    }
}

flags! {
    /// Modifiers of one request ("Command flags").
    CommandFlags: u16 {
        /// Durable before the reply.
        FUA = 0,
        /// Zeroes must stay allocated.
        NO_HOLE = 1,
        /// At most one content chunk in the reply to a read.
        DF = 2,
        /// At most one descriptor per metadata context.
        REQ_ONE = 3,
        /// Fail rather than write zeroes slowly.
        FAST_ZERO = 4,
        /// The length counts a payload that follows (extended headers only).
        PAYLOAD_LEN = 5,
    }
}

flags! {
    /// Modifiers of one reply chunk ("Structured reply flags").
    ReplyFlags: u16 {
        /// The last chunk of its reply.
        DONE = 0,
    }
}

flags! {
    /// A descriptor's status in the `base:allocation` context ("Metadata contexts").
    AllocationFlags: u64 {
        /// Not allocated.
        HOLE = 0,
        /// Reads as zeroes.
        ZERO = 1,
    }
}
