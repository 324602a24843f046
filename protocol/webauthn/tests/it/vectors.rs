//! The examples of the specification, section "Test Vectors".

use data_encoding::HEXLOWER;
use sluice_webauthn::{
    Assertion, Credential, Expected, Flaw, Registered, RelyingParty, assert, register,
};

/// A new passkey and its use, in hexadecimal digits.
struct Example {
    challenge: &'static str,
    id: &'static str,
    client_data: &'static str,
    attestation: &'static str,
    used: Used,
}

struct Used {
    challenge: &'static str,
    authenticator_data: &'static str,
    client_data: &'static str,
    signature: &'static str,
}

/// "ES256 Credential with No Attestation".
const NONE: Example = Example {
    challenge: "00c30fb78531c464d2b6771dab8d7b603c01162f2fa486bea70f283ae556e130",
    id: "f91f391db4c9b2fde0ea70189cba3fb63f579ba6122b33ad94ff3ec330084be4",
    client_data: "\
        7b2274797065223a22776562617574686e2e637265617465222c226368616c6c656e6765223a22414d4d\
        507434557878475453746e63647134313759447742466938767049612d7077386f4f755657345441222c\
        226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f72696769\
        6e223a66616c73652c22657874726144617461223a22636c69656e74446174614a534f4e206d61792062\
        6520657874656e6465642077697468206164646974696f6e616c206669656c647320696e207468652066\
        75747572652c207375636820617320746869733a20426b5165446a646354427258426941774a544c4535\
        51227d",
    attestation: "\
        a363666d74646e6f6e656761747453746d74a068617574684461746158a4bfabc37432958b063360d3ad\
        6461c9c4735ae7f8edd46592a5e0f01452b2e4b559000000008446ccb9ab1db374750b2367ff6f3a1f00\
        20f91f391db4c9b2fde0ea70189cba3fb63f579ba6122b33ad94ff3ec330084be4a50102032620012158\
        20afefa16f97ca9b2d23eb86ccb64098d20db90856062eb249c33a9b672f26df61225820930a56b87a2f\
        ca66334b03458abf879717c12cc68ed73290af2e2664796b9220",
    used: Used {
        challenge: "39c0e7521417ba54d43e8dc95174f423dee9bf3cd804ff6d65c857c9abf4d408",
        authenticator_data: "\
            bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b51900000000",
        client_data: "\
            7b2274797065223a22776562617574686e2e676574222c226368616c6c656e6765223a224f63446e\
            55685158756c5455506f334a5558543049393770767a7a59425039745a6368587961763031416722\
            2c226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f72\
            6967696e223a66616c73657d",
        signature: "\
            3046022100f50a4e2e4409249c4a853ba361282f09841df4dd4547a13a87780218deffcd38022100\
            8480ac0f0b93538174f575bf11a1dd5d78c6e486013f937295ea13653e331e87",
    },
};

/// "ES256 Credential with Self Attestation".
const OWN: Example = Example {
    challenge: "7869c2b772d4b58eba9378cf8f29e26cf935aa77df0da89fa99c0bdc0a76f7e5",
    id: "455ef34e2043a87db3d4afeb39bbcb6cc32df9347c789a865ecdca129cbef58c",
    client_data: "\
        7b2274797065223a22776562617574686e2e637265617465222c226368616c6c656e6765223a2265476e\
        4374334c55745936366b336a506a796e6962506b31716e666644616966715a774c33417032392d55222c\
        226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f72696769\
        6e223a66616c73652c22657874726144617461223a22636c69656e74446174614a534f4e206d61792062\
        6520657874656e6465642077697468206164646974696f6e616c206669656c647320696e207468652066\
        75747572652c207375636820617320746869733a205539685458764b453255526b4d6e625f3078594856\
        67227d",
    attestation: "\
        a363666d74667061636b65646761747453746d74a263616c672663736967584630440220067a20754ab9\
        25005dbf378097c92120031581c73228d1fb4f5b881bcd7da98302207fc7b147558c7c0eba3af18bd9d1\
        21fa3d3a26d17fe3f220272178f473b6006d68617574684461746158a4bfabc37432958b063360d3ad64\
        61c9c4735ae7f8edd46592a5e0f01452b2e4b55d00000000df850e09db6afbdfab51697791506cfc0020\
        455ef34e2043a87db3d4afeb39bbcb6cc32df9347c789a865ecdca129cbef58ca5010203262001215820\
        eb151c8176b225cc651559fecf07af450fd85802046656b34c18f6cf193843c5225820927b8aa427a2be\
        1b8834d233a2d34f61f13bfd44119c325d5896e183fee484f2",
    used: Used {
        challenge: "4478a10b1352348dd160c1353b0d469b5db19eb91c27f7dfa6fed39fe26af20b",
        authenticator_data: "\
            bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b50900000000",
        client_data: "\
            7b2274797065223a22776562617574686e2e676574222c226368616c6c656e6765223a2252486968\
            43784e534e493352594d45314f7731476d3132786e726b634a5f6666707637546e2d4a7138677322\
            2c226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f72\
            6967696e223a66616c73652c22657874726144617461223a22636c69656e74446174614a534f4e20\
            6d617920626520657874656e6465642077697468206164646974696f6e616c206669656c64732069\
            6e20746865206675747572652c207375636820617320746869733a206754623533727a3645685357\
            6f6d58477a696d433151227d",
        signature: "\
            304402203310b9431903c401f1be2bdc8d23a4007682dbbddcf846994947b7f465daf84002204e94\
            dd00047b316061b3b99772b7efd95994a83ef584b3b6b825ea3550251b66",
    },
};

/// "Packed Attestation with Ed25519 Credential".
const ED_DSA: Example = Example {
    challenge: "a8abf9dabdc6b0df63466b39bda9e8a34a34e185337a59f1c579990676d3b3bd",
    id: "ce9f840ed96599580cd140fbc7bb3230633f50f61041aff73308ae71caa8a2bd",
    client_data: "\
        7b2274797065223a22776562617574686e2e637265617465222c226368616c6c656e6765223a22714b76\
        3532723347734e396a526d733576616e6f6f306f303459557a656c6e7878586d5a426e6254733730222c\
        226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f72696769\
        6e223a66616c73652c22657874726144617461223a22636c69656e74446174614a534f4e206d61792062\
        6520657874656e6465642077697468206164646974696f6e616c206669656c647320696e207468652066\
        75747572652c207375636820617320746869733a20425f44543567375a445f2d394f544c595835497645\
        51227d",
    attestation: "\
        a363666d74667061636b65646761747453746d74a363616c67266373696758483046022100d83f60bd80\
        269537583218858aefb03ac57d45fa06e42feaae332d187f62da9f022100a02bd3cb6f7e1d283c93bad1\
        f3f4b5a4c0494463da7fdbf256949116754d1f17637835638159022730820223308201c8a00302010202\
        1100b2cfc9ea33c8643b0e1a760463eaf164300a06082a8648ce3d0403023062311e301c06035504030c\
        15576562417574686e207465737420766563746f7273310c300a060355040a0c03573343312530230603\
        55040b0c1c41757468656e74696361746f72204174746573746174696f6e204341310b30090603550406\
        130241413020170d3234303130313030303030305a180f33303234303130313030303030305a305f311e\
        301c06035504030c15576562417574686e207465737420766563746f7273310c300a060355040a0c0357\
        334331223020060355040b0c1941757468656e74696361746f72204174746573746174696f6e310b3009\
        0603550406130241413059301306072a8648ce3d020106082a8648ce3d03010703420004dd2b7a564b73\
        b8c0b81c4c62e521925c4d1198ec9f583dbf1eebe364b65cd9c29a9bdf346aaa81fb6b9507e5249a52fd\
        af8e39e26b0b7dc45992a7e233b70f70a360305e300c0603551d130101ff04023000300e0603551d0f01\
        01ff040403020780301d0603551d0e041604140ae27546bc7eccb1b4b597bd354f0c0b1f1f8f8e301f06\
        03551d2304183016801445aff715b0dd786741fee996ebc16547a3931b1e300a06082a8648ce3d040302\
        0349003046022100a0d434ecb5fc3bfd7da5f41904517ad2836249f561bd834ba7a438a8ab7a4ce80221\
        00fac845bb7a02513b58e9f319654dbe49b0f02b95835bac568c71f8a18cdde9ab686175746844617461\
        5881bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b54100000000d5aa33\
        581e8ca478e20fe713f5d32ff20020ce9f840ed96599580cd140fbc7bb3230633f50f61041aff73308ae\
        71caa8a2bda401010327200621582044e06ddd331c36a8dc667bab52bcae63486c916aa5e339e6acebaa\
        84934bf832",
    used: Used {
        challenge: "895957e01c633a698348a2d8a31a54b7db27e8c1c43b2080d79ae2190267bfd2",
        authenticator_data: "\
            bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b50100000000",
        client_data: "\
            7b2274797065223a22776562617574686e2e676574222c226368616c6c656e6765223a2269566c58\
            3442786a4f6d6d44534b4c596f7870557439736e364d48454f7943413135726947514a6e76394922\
            2c226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f72\
            6967696e223a66616c73657d",
        signature: "\
            f5c59c7e46c34f6f8cc197101ddf9934fa2595f68eb1913a637e8419eb9ba4cfdfc48f85393bc0d4\
            0b011f0d6fecb097d6607525713223a0dc0d453993dae00b",
    },
};

/// "ES256 Credential with "crossOrigin": true in clientDataJSON": the registration.
const FRAMED: [&str; 4] = [
    "3be5aacd03537142472340ab5969f240f1d87716e20b6807ac230655fa4b3b49",
    "6e1050c0d2ca2f07c755cb2c66a74c64fa43065c18f938354d9915db2bd5ce57",
    "\
        7b2274797065223a22776562617574686e2e637265617465222c226368616c6c656e6765223a224f2d57\
        717a514e5463554a484930437257576e7951504859647862694332674872434d475666704c4f306b222c\
        226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f72696769\
        6e223a747275652c22657874726144617461223a22636c69656e74446174614a534f4e206d6179206265\
        20657874656e6465642077697468206164646974696f6e616c206669656c647320696e20746865206675\
        747572652c207375636820617320746869733a207a5a7175457444523944577170573574425754467567\
        227d",
    "\
        a363666d74646e6f6e656761747453746d74a068617574684461746158a4bfabc37432958b063360d3ad\
        6461c9c4735ae7f8edd46592a5e0f01452b2e4b54500000000883f4f6014f19c09d87aa38123be48d000\
        206e1050c0d2ca2f07c755cb2c66a74c64fa43065c18f938354d9915db2bd5ce57a50102032620012158\
        2022200a473f90b11078851550d03b4e44a2279f8c4eca27b3153dedfe03e4e97d225820cbd0be95e746\
        ad6f5a8191be11756e4c0420e72f65b466d39bc56b8b123a9c6e",
];

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

pub fn party() -> RelyingParty {
    RelyingParty::of_url("https://example.org").unwrap()
}

fn made([challenge, id, client_data, attestation]: [&str; 4]) -> Result<Registered, Flaw> {
    let (party, challenge) = (party(), hex(challenge));
    let expected = Expected { party: &party, challenge: &challenge, verified: false };
    register(&expected, &hex(id), &hex(client_data), &hex(attestation))
}

fn try_example(example: &Example) -> (Registered, bool) {
    let Example { challenge, id, client_data, attestation, used } = example;
    let new = made([challenge, id, client_data, attestation]).unwrap();
    assert_eq!((new.id.clone(), new.counter), (hex(id), 0));
    let (party, challenge) = (party(), hex(used.challenge));
    let expected = Expected { party: &party, challenge: &challenge, verified: false };
    let known = Credential { key: &new.key, counter: 0, backup_eligible: new.backup_eligible };
    let (client_data, signature) = (hex(used.client_data), hex(used.signature));
    let data = hex(used.authenticator_data);
    let brought =
        Assertion { client_data: &client_data, authenticator_data: &data, signature: &signature };
    let shown = assert(&expected, &known, &brought).unwrap();
    // Another key of the same kind has not signed it.
    let mut other = signature.clone();
    *other.last_mut().unwrap() ^= 1;
    let forged = Assertion { signature: &other, ..brought };
    assert_eq!(assert(&expected, &known, &forged), Err(Flaw::Signature));
    (new, shown.backed_up)
}

#[test]
fn the_examples_are_right() {
    let (new, backed_up) = try_example(&NONE);
    assert_eq!((new.verified, new.backup_eligible, new.backed_up), (false, true, true));
    assert!(backed_up);
    assert_eq!(HEXLOWER.encode(&new.model), "8446ccb9ab1db374750b2367ff6f3a1f");
    let (new, backed_up) = try_example(&OWN);
    assert_eq!((new.verified, new.backup_eligible, new.backed_up), (true, true, true));
    assert!(!backed_up);
    let (new, backed_up) = try_example(&ED_DSA);
    assert_eq!((new.verified, new.backup_eligible, new.backed_up), (false, false, false));
    assert!(!backed_up);
}

#[test]
fn what_was_made_in_a_frame_is_refused() {
    assert_eq!(made(FRAMED), Err(Flaw::CrossOrigin));
}

#[test]
fn a_statement_by_the_key_itself_must_hold() {
    let forged = OWN.attestation.replacen("067a2075", "067a2076", 1);
    let Example { challenge, id, client_data, .. } = OWN;
    assert_eq!(made([challenge, id, client_data, &forged]), Err(Flaw::Signature));
    assert_eq!(made([challenge, NONE.id, client_data, OWN.attestation]), Err(Flaw::Id));
    assert_eq!(made([NONE.challenge, id, client_data, OWN.attestation]), Err(Flaw::Challenge));
}

/// Each byte that can be cut off is missed.
#[test]
fn what_is_cut_short_or_goes_on_is_refused() {
    for example in [&NONE, &OWN, &ED_DSA] {
        let Example { challenge, id, client_data, attestation, .. } = example;
        for end in (0..attestation.len()).step_by(2) {
            let told = made([challenge, id, client_data, &attestation[..end]]);
            assert!(told.is_err(), "{end} bytes");
        }
        let longer = format!("{attestation}00");
        assert_eq!(made([challenge, id, client_data, &longer]), Err(Flaw::Shape));
    }
}
