//! Requests on the control sockets of mountd and of an overlay in use, as anything of the same user
//! may send them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_mountd::protocol::{Answer, LONGEST_REQUEST, Request};
use sluice_overlay::control as overlay;

fuzz_target!(|input: &[u8]| {
    mountd(input);
    if let Ok(request) = serde_json::from_slice::<overlay::Request>(input) {
        let text = serde_json::to_string(&request).expect("a request can be written");
        assert!(!text.contains('\n'), "one line");
        let again = serde_json::from_str(&text).expect("what was written is read");
        assert_eq!(request, again);
    }
    let _ = serde_json::from_slice::<overlay::Answer>(input);
});

fn mountd(input: &[u8]) {
    if let Ok(request) = Request::decode(input) {
        let line = request.encode();
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1), "one line");
        if line.len() > LONGEST_REQUEST {
            return;
        }
        let again = Request::decode(&line).expect("what was written is read");
        // Numbers in a description may be rounded; nothing else may change.
        match (&request, &again) {
            (
                Request::Mount { secrets, lease_ms, .. },
                Request::Mount { secrets: s, lease_ms: l, .. },
            ) => {
                assert!(secrets == s && lease_ms == l);
            }
            _ => assert_eq!(request, again),
        }
    }
    if let Ok(answer) = Answer::decode(input) {
        Answer::decode(&answer.encode()).expect("what was written is read");
    }
}
