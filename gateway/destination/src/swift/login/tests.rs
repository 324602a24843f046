use super::*;
use crate::ErrorKind;
use crate::url::DestinationUrl;

/// The login a URL leads to with a file of settings.
fn login(parameters: &str, settings: &str) -> Result<Login> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), settings).unwrap();
    let url = format!("swift://c/?credentials={}{parameters}", file.path().display());
    let url: DestinationUrl = url.parse().unwrap();
    Settings::find(&url)?.login()
}

const PASSWORD: &str = "OS_AUTH_URL=https://id.example:5000\nOS_USERNAME=u\nOS_PASSWORD=hunter2\n\
                        OS_PROJECT_NAME=p\n";

fn place_of(login: Login) -> (String, Place) {
    match login {
        Login::V3 { auth, place, .. } => (auth, place),
        other => panic!("{other:?} is not of Keystone"),
    }
}

#[test]
fn keystone_is_the_rule_and_its_version_is_added() {
    for (url, wanted) in [
        ("https://id.example:5000", "https://id.example:5000/v3"),
        ("https://id.example/identity/", "https://id.example/identity/v3"),
        ("https://id.example/v3/", "https://id.example/v3"),
        ("http://id.example/v2.0", "http://id.example/v3"),
    ] {
        let settings = PASSWORD.replace("https://id.example:5000", url);
        let (auth, place) = place_of(login("", &settings).unwrap());
        assert_eq!(auth, wanted);
        assert_eq!(place.interface, Interface::Public);
    }
}

#[test]
fn names_are_of_the_default_domain_unless_said_otherwise() {
    let owners = |parameters: &str, more: &str| {
        let settings = format!("{PASSWORD}{more}");
        match login(parameters, &settings).unwrap() {
            Login::V3 { identity: Identity::Password { user, .. }, project, .. } => {
                (user, project.unwrap())
            }
            other => panic!("{other:?}"),
        }
    };
    let name = |name: &str, domain: &str| Owner::Name(name.into(), Domain::Name(domain.into()));
    assert_eq!(owners("", ""), (name("u", "Default"), name("p", "Default")));
    let both = "OS_USER_DOMAIN_NAME=du\nOS_PROJECT_DOMAIN_NAME=dp\n";
    assert_eq!(owners("", both), (name("u", "du"), name("p", "dp")));
    let ids = "OS_USER_DOMAIN_ID=iu\nOS_PROJECT_ID=ip\n";
    let user = Owner::Name("u".into(), Domain::Id("iu".into()));
    assert_eq!(owners("", ids), (user, Owner::Id("ip".into())));
    let url = "&project_name=q&project_domain=dq&user_domain=dv";
    assert_eq!(owners(url, both), (name("u", "dv"), name("q", "dq")));
    assert_eq!(owners("&project_name=q", ids).1, name("q", "Default"));
}

#[test]
fn the_url_goes_before_the_settings() {
    let settings = format!("{PASSWORD}OS_REGION_NAME=r1\nOS_INTERFACE=internal\n");
    let (_, place) = place_of(login("", &settings).unwrap());
    assert_eq!((place.region.as_deref(), place.interface), (Some("r1"), Interface::Internal));
    let parameters = "&region=r2&interface=adminURL&service_name=s&auth=http://h/";
    let (auth, place) = place_of(login(parameters, &settings).unwrap());
    assert_eq!((place.region.as_deref(), place.interface), (Some("r2"), Interface::Admin));
    assert_eq!((place.service_name.as_deref(), auth.as_str()), (Some("s"), "http://h/v3"));
}

#[test]
fn version_1_is_chosen_by_what_there_is() {
    let simple = "export ST_AUTH='http://h/auth/v1.0'\n# who\nST_USER=\"a:u\"\nST_KEY='k=#'\n";
    let wanted = Login::V1 {
        auth: "http://h/auth/v1.0".into(),
        user: "a:u".into(),
        key: Secret::new("k=#"),
    };
    assert_eq!(login("", simple).unwrap(), wanted);
    assert_eq!(login("&auth=http://h/auth/v1.0", simple).unwrap(), wanted);
    let both = format!("{PASSWORD}{simple}");
    assert!(matches!(login("", &both).unwrap(), Login::V3 { .. }));
    assert_eq!(login("&auth_version=1", &both).unwrap(), wanted);
    login("&auth_version=2", &both).unwrap_err();
}

#[test]
fn application_credentials_need_neither_user_nor_project() {
    let settings = "OS_AUTH_URL=http://h\nOS_APPLICATION_CREDENTIAL_ID=i\n\
                    OS_APPLICATION_CREDENTIAL_SECRET=s\n";
    let found = login("", settings).unwrap();
    let Login::V3 { identity, project: None, .. } = found else { panic!("{found:?}") };
    let secret = Secret::new("s");
    assert_eq!(identity, Identity::Application { id: "i".into(), secret });
}

#[test]
fn what_is_missing_is_named_and_secrets_are_not_shown() {
    for (without, words, kind) in [
        ("OS_USERNAME", "OS_USERNAME", ErrorKind::AccessDenied),
        ("OS_PASSWORD", "OS_PASSWORD", ErrorKind::AccessDenied),
        ("OS_PROJECT_NAME", "project_name=", ErrorKind::InvalidConfig),
        ("OS_AUTH_URL", "auth=URL", ErrorKind::InvalidConfig),
    ] {
        let lines = PASSWORD.lines().filter(|line| !line.starts_with(without));
        let settings: Vec<_> = lines.collect();
        let error = login("", &settings.join("\n")).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let shown = format!("{:?}", login("", PASSWORD).unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
    let error = login("", "OS_PASSWORD: hunter2").unwrap_err().to_string();
    assert!(error.contains("line 1") && !error.contains("hunter2"), "{error}");
    let error = login("&auth=https://u:hunter2@h", PASSWORD).unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
}
