//! Two who change at the same time what must not be changed by both.

use std::time::Duration;

use sluice_catalog::{
    Catalog, ErrorKind, Grant, Project, ProjectId, Result, Role, UserId, Visible,
};

use crate::records::{instance, project};
use crate::support::{Lab, on_both};

on_both! {
    a_project_is_removed_or_gets_something_and_not_both
    two_administrators_cannot_remove_each_other
}

/// Lets another transaction come to where it waits; the outcome is the same if it does not.
async fn meanwhile() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

async fn remove(catalog: Catalog, id: ProjectId) -> Result<()> {
    let mut tx = catalog.begin().await?;
    let record = tx.get::<Project>(id, &Visible::All).await?;
    tx.refuse_if_used(&record, &Visible::All).await?;
    tx.delete::<Project>(id).await?;
    tx.commit().await
}

async fn add(catalog: Catalog, to: ProjectId) -> Result<()> {
    let mut tx = catalog.begin().await?;
    tx.insert(Some(to), "web", instance(&[]), 1).await?;
    tx.commit().await
}

async fn a_project_is_removed_or_gets_something_and_not_both(Lab { catalog, .. }: Lab) {
    let shop = project(&catalog, "shop").await;
    let mut adds = catalog.begin().await.unwrap();
    adds.insert(Some(shop), "web", instance(&[]), 1).await.unwrap();
    let removing = tokio::spawn(remove(catalog.clone(), shop));
    meanwhile().await;
    adds.commit().await.unwrap();
    let refused = removing.await.unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");

    let blog = project(&catalog, "blog").await;
    let mut removes = catalog.begin().await.unwrap();
    let record = removes.get::<Project>(blog, &Visible::All).await.unwrap();
    removes.refuse_if_used(&record, &Visible::All).await.unwrap();
    removes.delete::<Project>(blog).await.unwrap();
    let adding = tokio::spawn(add(catalog.clone(), blog));
    meanwhile().await;
    removes.commit().await.unwrap();
    let refused = adding.await.unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused}");
}

/// Removes a user; how many administrators are left.
async fn remove_user(catalog: Catalog, id: UserId) -> Result<u64> {
    let mut tx = catalog.begin().await?;
    tx.delete_user(id).await?;
    tx.change_access_alone().await?;
    let left = tx.count_administrators().await?;
    if left > 0 {
        tx.commit().await?;
    }
    Ok(left)
}

async fn two_administrators_cannot_remove_each_other(Lab { catalog, .. }: Lab) {
    let mut tx = catalog.begin().await.unwrap();
    let mut ids = Vec::new();
    for login in ["anna", "otto"] {
        let user = tx.add_user(login, "hash", 1).await.unwrap();
        tx.set_grants(user.id, &[Grant::system(Role::Admin)]).await.unwrap();
        ids.push(user.id);
    }
    tx.commit().await.unwrap();
    let mut first = catalog.begin().await.unwrap();
    first.delete_user(ids[0]).await.unwrap();
    first.change_access_alone().await.unwrap();
    assert_eq!(first.count_administrators().await.unwrap(), 1);
    let second = tokio::spawn(remove_user(catalog.clone(), ids[1]));
    meanwhile().await;
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap().unwrap(), 0, "it sees that the other is gone");
    let mut tx = catalog.read().await.unwrap();
    assert_eq!(tx.count_administrators().await.unwrap(), 1);
}
