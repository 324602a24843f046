use sluice_catalog::{
    ErrorKind, EventFilter, InstanceId, NewRetentionEvent, Page, PointId, ProjectId, Record,
    RetentionEvent, Visible,
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
    let of = |instance, project, event: Option<&str>| EventFilter {
        instance,
        project,
        event: event.map(str::to_owned),
    };
    let (other, elsewhere) = (Visible::projects([ProjectId::new(1)]), Some(ProjectId::new(1)));
    for (visible, filter, many) in [
        (&Visible::All, of(Some(web.id), None, None), 2),
        (&Visible::All, of(None, Some(shop), Some("sold")), 2),
        (&Visible::All, of(Some(web.id), Some(shop), Some("over")), 0),
        (&Visible::All, of(None, elsewhere, None), 0),
        (&Visible::All, of(Some(web.id), elsewhere, None), 0),
        (&other, of(None, None, None), 0),
    ] {
        let found = tx.events(visible, &filter, &page).await.unwrap();
        assert_eq!((found.items.len(), found.next), (many, None), "{filter:?}");
    }
    // Part by part.
    let part = Page { limit: 1, ..page.clone() };
    let found = tx.events(&Visible::All, &EventFilter::default(), &part).await.unwrap();
    let part = Page { after: found.next, ..part };
    let rest = tx.events(&Visible::All, &EventFilter::default(), &part).await.unwrap();
    assert_eq!((found.items[0].id, rest.items[0].at_ms), (first.id, 100));
    let hidden = tx.event(first.id, &other).await.unwrap_err();
    assert_eq!(hidden.kind(), ErrorKind::NotFound);
    let found = tx.events_before(900, &page).await.unwrap();
    assert_eq!((found.items.len(), found.next), (1, None), "the other happens at 900");
    assert!(tx.events_before(100, &page).await.unwrap().items.is_empty());
    // What was settled stays with the event, and nobody else is told of it.
    let ends = ["a/1".to_owned(), "b/2".to_owned()];
    tx.set_settled(own.id, ends.clone()).await.unwrap();
    let known = tx.settled_events(web.id).await.unwrap();
    let settled = |id| known.iter().find(|one| one.event.id == id).unwrap().settled.clone();
    assert_eq!((settled(own.id), settled(first.id)), (ends.into(), [].into()));
    assert_eq!(tx.events_of_many(&[web.id].into()).await.unwrap().items.len(), 2);
    assert!(tx.events_of_many(&[InstanceId::new(9)].into()).await.unwrap().items.is_empty());
    tx.remove_event(first.id).await.unwrap();
    let left: Vec<RetentionEvent> = tx.events_of(web.id).await.unwrap();
    assert_eq!(left, [own]);
    let odd = NewRetentionEvent { event: " ".into(), ..new(None, 1) };
    assert!(tx.set_event(&odd, 1).await.is_err());
    let nobody = NewRetentionEvent { instance: InstanceId::new(9), ..new(None, 1) };
    assert!(tx.set_event(&nobody, 1).await.is_err());
}
