use sluice_catalog::{
    ErrorKind, InstanceId, NewRetentionEvent, Page, PointId, ProjectId, Record, RetentionEvent,
    Visible,
};

use crate::records::{instance, project};
use crate::support::{Lab, on_both};

on_both! {
    of_an_event_that_is_heard_of_twice_the_later_time_counts
}

async fn of_an_event_that_is_heard_of_twice_the_later_time_counts(Lab { catalog, .. }: Lab) {
    let shop = project(&catalog, "shop").await;
    let mut tx = catalog.begin().await.unwrap();
    let web: Record<_> = tx.insert(Some(shop), "web", instance(&[]), 7).await.unwrap();
    let new = |point, at_ms| NewRetentionEvent {
        project: Some(shop),
        instance: web.id,
        point,
        event: "sold".into(),
        at_ms,
    };
    let first = tx.set_event(&new(None, 500), 1000).await.unwrap();
    let again = tx.set_event(&new(None, 900), 1001).await.unwrap();
    assert_eq!((again.id, again.at_ms), (first.id, 900));
    assert_eq!(tx.set_event(&new(None, 100), 1002).await.unwrap().at_ms, 900);
    // Of one restore point it is another event.
    let point = PointId::new(1);
    let own = tx.set_event(&new(Some(point), 100), 1003).await.unwrap();
    assert_eq!((own.at_ms, own.point), (100, Some(point)));
    let page = Page { after: None, limit: 10 };
    let seen = |visible: Visible| (visible, page.clone());
    let (all, page_of) = seen(Visible::All);
    assert_eq!(tx.events(&all, Some(web.id), &page_of).await.unwrap().len(), 2);
    let (other, page_of) = seen(Visible::projects([ProjectId::new(1)]));
    assert!(tx.events(&other, None, &page_of).await.unwrap().is_empty());
    let hidden = tx.event(first.id, &other).await.unwrap_err();
    assert_eq!(hidden.kind(), ErrorKind::NotFound);
    assert_eq!(tx.with_events(900).await.unwrap(), [web.id]);
    assert!(tx.with_events(100).await.unwrap().is_empty());
    tx.remove_event(first.id).await.unwrap();
    let left: Vec<RetentionEvent> = tx.events_of(web.id).await.unwrap();
    assert_eq!(left, [own]);
    let odd = NewRetentionEvent { event: " ".into(), ..new(None, 1) };
    assert!(tx.set_event(&odd, 1).await.is_err());
    let nobody = NewRetentionEvent { instance: InstanceId::new(9), ..new(None, 1) };
    assert!(tx.set_event(&nobody, 1).await.is_err());
}
