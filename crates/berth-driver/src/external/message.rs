//! The messages of Lima's `Driver` service, field by field as Lima 2.2 numbers them. The service has no package.

use std::collections::BTreeMap;

use berth_grpc::error::Method;

/// A method of the service, as a client names it.
pub(super) const fn method(name: &'static str) -> Method {
    Method {
        peer: "the external driver",
        service: "Driver",
        name,
    }
}

/// Nothing (`google.protobuf.Empty`).
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Empty {}

/// Answer of `Info`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct InfoResponse {
    /// JSON: see `info`.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) info_json: Vec<u8>,
}

/// Request and answer of `Configure` (`SetConfigRequest`, `SetConfigResponse`).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct SetConfig {
    /// JSON: see `instance`.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) instance_config_json: Vec<u8>,
}

/// One answer of `Start`: the first and the last are successes, between them are errors of the running VM.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct StartResponse {
    #[prost(bool, tag = "1")]
    pub(super) success: bool,
    /// Why not; empty on success.
    #[prost(string, tag = "2")]
    pub(super) error: String,
}

impl StartResponse {
    pub(super) fn success() -> Self {
        Self {
            success: true,
            error: String::new(),
        }
    }

    pub(super) fn failure(error: impl Into<String>) -> Self {
        Self {
            success: false,
            error: error.into(),
        }
    }
}

/// Answer of `BootScripts`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct BootScriptsResponse {
    /// `boot.OS/NAME` or `NAME` → the script.
    #[prost(btree_map = "string, bytes", tag = "1")]
    pub(super) scripts: BTreeMap<String, Vec<u8>>,
}

/// Any message whose only field is a text: answers of `SSHAddress` (address), `GetDisplayConnection` (connection) and
/// `ListSnapshots` (snapshots), requests of `ChangeDisplayPassword` (password), `CreateSnapshot`, `ApplySnapshot` and
/// `DeleteSnapshot` (tag).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Text {
    #[prost(string, tag = "1")]
    pub(super) text: String,
}

/// Answer of `ForwardGuestAgent`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct ForwardGuestAgentResponse {
    #[prost(bool, tag = "1")]
    pub(super) should_forward: bool,
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn the_bytes_are_what_lima_reads_and_writes() {
        assert_eq!(Empty {}.encode_to_vec(), b"");
        let info = InfoResponse {
            info_json: b"{}".to_vec(),
        };
        assert_eq!(info.encode_to_vec(), b"\x0a\x02{}");
        let config = SetConfig {
            instance_config_json: b"{}".to_vec(),
        };
        assert_eq!(config.encode_to_vec(), b"\x0a\x02{}");
        assert_eq!(StartResponse::success().encode_to_vec(), b"\x08\x01");
        assert_eq!(StartResponse::failure("no").encode_to_vec(), b"\x12\x02no");
        let text = Text {
            text: "tag".to_owned(),
        };
        assert_eq!(text.encode_to_vec(), b"\x0a\x03tag");
        let forward = ForwardGuestAgentResponse {
            should_forward: true,
        };
        assert_eq!(forward.encode_to_vec(), b"\x08\x01");
        let scripts = BootScriptsResponse {
            scripts: [("a".to_owned(), b"#!".to_vec())].into(),
        };
        let bytes = b"\x0a\x07\x0a\x01a\x12\x02#!";
        assert_eq!(scripts.encode_to_vec(), bytes);
        assert_eq!(BootScriptsResponse::decode(&bytes[..]).unwrap(), scripts);
    }

    #[test]
    fn fields_of_a_later_version_are_passed_over() {
        let answer = StartResponse::decode(&b"\x08\x01\x1a\x01x"[..]).unwrap();
        assert_eq!(answer, StartResponse::success());
    }
}
