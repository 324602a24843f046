use super::*;
use crate::web::Secret;

fn place(interface: Interface, region: Option<&str>, service: Option<&str>) -> Place {
    Place { interface, region: region.map(Into::into), service_name: service.map(Into::into) }
}

fn catalogue() -> TokenAnswer {
    let endpoint = |interface: &str, region: &str, url: &str| {
        let region_id = region;
        json!({ "interface": interface, "region": region, "region_id": region_id, "url": url })
    };
    let answer = json!({ "token": {
        "issued_at": "2026-03-01T10:00:00.000000Z",
        "expires_at": "2026-03-01T11:30:00.000000Z",
        "catalog": [
            { "type": "identity", "name": "keystone", "endpoints": [] },
            { "type": "object-store", "name": "swift", "endpoints": [
                endpoint("public", "north", "https://north.example/v1/AUTH_1/"),
                endpoint("internal", "north", "http://north.internal/v1/AUTH_1"),
                endpoint("public", "south", "https://south.example/v1/AUTH_1"),
            ]},
            { "type": "object-store", "name": "archive", "endpoints": [
                endpoint("public", "south", "https://archive.example/v1/AUTH_1"),
            ]},
        ],
    }});
    TokenAnswer::parse(answer.to_string().as_bytes()).unwrap()
}

#[test]
fn the_object_store_is_chosen_by_region_interface_and_name() {
    use Interface::{Admin, Internal, Public};
    let found = |place: &Place| catalogue().storage_url(place);
    for (interface, region, name, url) in [
        (Public, Some("north"), None, "https://north.example/v1/AUTH_1"),
        (Internal, None, None, "http://north.internal/v1/AUTH_1"),
        (Public, Some("south"), Some("swift"), "https://south.example/v1/AUTH_1"),
        (Public, None, Some("archive"), "https://archive.example/v1/AUTH_1"),
    ] {
        assert_eq!(found(&place(interface, region, name)).unwrap(), url);
    }
    for (interface, region, name, words) in [
        (Admin, None, None, "no object store"),
        (Public, Some("west"), None, "swift (public, south)"),
        (Public, None, None, "region="),
        (Public, Some("south"), None, "more than one"),
        (Public, None, Some("shelf"), "archive (public, south)"),
    ] {
        let error = found(&place(interface, region, name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_tokens_life_is_told_by_the_server_alone() {
    assert_eq!(catalogue().lifetime(), Some(Duration::from_secs(5400)));
    let bare = TokenAnswer::parse(br#"{"token":{}}"#).unwrap();
    assert_eq!(bare.lifetime(), None);
    assert!(TokenAnswer::parse(b"<html>").unwrap_err().is_retryable());
}

#[test]
fn identities_and_projects_have_domains_by_name_or_id() {
    let user = Owner::Name("u".into(), Domain::Id("default".into()));
    let identity = Identity::Password { user, password: Secret::new("p\"w") };
    let project = Owner::Name("p".into(), Domain::Name("D".into()));
    let request = token_request(&identity, Some(&project));
    let user = &request["auth"]["identity"]["password"]["user"];
    assert_eq!(user["domain"]["id"], "default");
    assert_eq!(user["password"], "p\"w");
    assert_eq!(request["auth"]["scope"]["project"]["domain"]["name"], "D");
    let secret = Secret::new("s");
    let application = Identity::Application { id: "a".into(), secret };
    let request = token_request(&application, None);
    assert_eq!(request["auth"]["identity"]["application_credential"]["secret"], "s");
    assert!(request["auth"].get("scope").is_none());
}

#[test]
fn listings_hold_our_names_only() {
    let text = br#"[{"name":"p/a","bytes":3,"last_modified":"2026-03-01T10:00:00.500000"},
        {"subdir":"p/x/"}, {"name":"p/.b","bytes":1}, {"name":"pq","bytes":1}]"#;
    let page = parse_listing(text, "p/").unwrap();
    assert_eq!((page.names, page.last.as_deref()), (4, Some("pq")));
    assert_eq!(page.objects.len(), 1);
    let object = &page.objects[0];
    assert_eq!((object.key.as_str(), object.size), ("a", 3));
    assert_eq!(object.modified, parse_seconds("1772359200.5"));
    assert_eq!(parse_listing(b"", "p/").unwrap().names, 0);
    assert_eq!(parse_listing(b"<html>", "p/").unwrap_err().kind(), ErrorKind::Unfit);
}

#[test]
fn what_failed_of_many_is_found_in_the_body() {
    let good = br#" {"Response Status":"200 OK","Number Not Found":1,"Errors":[]}"#;
    assert!(parse_bulk(good).unwrap().is_empty());
    let nothing = br#"{"Response Status":"404 Not Found","Response Body":"","Errors":[]}"#;
    assert!(parse_bulk(nothing).unwrap().is_empty());
    let some = br#"{"Response Status":"400 Bad Request","Errors":[["c/a","403 Forbidden"]]}"#;
    assert_eq!(parse_bulk(some).unwrap(), [(403, "c/a".to_owned())]);
    let broken = br#"{"Response Status":"502 Bad Gateway","Response Body":"gone","Errors":[]}"#;
    assert_eq!(parse_bulk(broken).unwrap(), [(502, "gone".to_owned())]);
    assert!(parse_bulk(b"").unwrap_err().is_retryable());
    assert_eq!(parse_bulk_limit(br#"{"bulk_delete":{"max_deletes_per_request":50}}"#), Some(50));
    assert_eq!(parse_bulk_limit(br#"{"slo":{}}"#), None);
    assert_eq!(parse_bulk_limit(b"no"), None);
}

#[test]
fn odd_times_are_no_times() {
    for odd in ["", "x", "-1", "NaN", "inf", "1e300"] {
        assert_eq!(parse_seconds(odd), None, "{odd}");
        assert_eq!(parse_time(odd), None, "{odd}");
    }
}
