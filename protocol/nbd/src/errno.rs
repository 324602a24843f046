/// Why a request failed, as the protocol numbers it ("Error values").
///
/// The numbers are those of Linux, but the protocol fixes them for every platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Errno {
    /// `EPERM` (1): the export cannot be written.
    Permission,
    /// `EIO` (5): the device failed.
    Io,
    /// `ENOMEM` (12): the server has no memory for this now.
    NoMemory,
    /// `EINVAL` (22): the request is wrong, or leaves the export.
    Invalid,
    /// `ENOSPC` (28): no room, or a write beyond the end.
    NoSpace,
    /// `EOVERFLOW` (75): too long to be answered in one chunk.
    Overflow,
    /// `ENOTSUP` (95): known, but not possible here.
    NotSupported,
    /// `ESHUTDOWN` (108): the server is going away.
    Shutdown,
    /// A number outside the specification; to be treated as `EINVAL`.
    Other(u32),
}

impl Errno {
    /// The error of a number on the wire; `None` for 0, which is success.
    pub fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => return None,
            1 => Self::Permission,
            5 => Self::Io,
            12 => Self::NoMemory,
            22 => Self::Invalid,
            28 => Self::NoSpace,
            75 => Self::Overflow,
            95 => Self::NotSupported,
            108 => Self::Shutdown,
            other => Self::Other(other),
        })
    }

    /// The number on the wire.
    pub fn code(self) -> u32 {
        match self {
            Self::Permission => 1,
            Self::Io => 5,
            Self::NoMemory => 12,
            Self::Invalid => 22,
            Self::NoSpace => 28,
            Self::Overflow => 75,
            Self::NotSupported => 95,
            Self::Shutdown => 108,
            Self::Other(code) => code,
        }
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Permission => "EPERM",
            Self::Io => "EIO",
            Self::NoMemory => "ENOMEM",
            Self::Invalid => "EINVAL",
            Self::NoSpace => "ENOSPC",
            Self::Overflow => "EOVERFLOW",
            Self::NotSupported => "ENOTSUP",
            Self::Shutdown => "ESHUTDOWN",
            Self::Other(code) => return write!(f, "error {code}"),
        })
    }
}
