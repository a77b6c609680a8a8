//! Changes. Each is called within one transaction, which ends after it.

use sqlx::QueryBuilder;

use crate::registry::Fault;
use crate::registry::connections::in_time;
use crate::registry::fault::Stop;
use crate::registry::store::well_formed;
use crate::rules::device::DeviceId;
use crate::rules::record::{Credential, LastSeen, Record};

use super::super::{LOCK_SEEN, hold_changes, hold_device, hold_group, tell};
use super::row::ProofColumns;
use super::{CHUNK, Connection, Db, KEPT_CHANGES, MOST_CHANGES, read};

/// Adds devices. Sees to its own deadlines: it may take long, but not between two calls of `progress`.
pub(in crate::registry) async fn add(
    connection: &mut Connection,
    records: &[Record],
    progress: &mut (dyn FnMut(usize) + Send),
) -> Result<(), Stop> {
    let mut done = 0;
    for some in records.chunks(CHUNK) {
        in_time(insert(connection, some)).await?;
        done += some.len();
        progress(done);
    }
    let devices: Vec<_> = records.iter().map(|record| &record.device).collect();
    in_time(note_changes(connection, &devices)).await
}

async fn insert(connection: &mut Connection, records: &[Record]) -> Result<(), Stop> {
    let mut query = QueryBuilder::<Db>::new(
        "INSERT INTO device (id, description, labels, enabled, min_mode, connections, registered_by, created, changed) ",
    );
    query.push_values(records, |mut values, record| {
        values
            .push_bind(record.device.as_str())
            .push_bind(&record.description)
            .push_bind(labels(record))
            .push_bind(record.enabled)
            .push_bind(record.min_mode.word())
            .push_bind(record.connections.map(i64::from))
            .push_bind(&record.registered_by)
            .push_bind(record.created)
            .push_bind(record.changed);
    });
    query.build().execute(&mut *connection).await?;
    insert_credentials(connection, records).await
}

async fn insert_credentials(connection: &mut Connection, records: &[Record]) -> Result<(), Stop> {
    let all: Vec<(&DeviceId, &Credential)> = records
        .iter()
        .flat_map(|record| record.credentials.iter().map(|one| (&record.device, one)))
        .collect();
    for some in all.chunks(CHUNK) {
        let mut query = QueryBuilder::<Db>::new(
            "INSERT INTO credential (device, number, proof, trust, field, pin, print, valid_from, valid_until) ",
        );
        query.push_values(some, |mut values, (device, credential)| {
            let proof = ProofColumns::from(&credential.proof);
            values
                .push_bind(device.as_str())
                .push_bind(i64::from(credential.number))
                .push_bind(proof.proof)
                .push_bind(proof.trust)
                .push_bind(proof.field)
                .push_bind(proof.pin)
                .push_bind(proof.print)
                .push_bind(credential.valid.from)
                .push_bind(credential.valid.until);
        });
        query.build().execute(&mut *connection).await?;
    }
    Ok(())
}

fn labels(record: &Record) -> String {
    serde_json::to_string(&record.labels).expect("a map of strings is JSON")
}

/// Adds a device that registers itself.
pub(in crate::registry) async fn register(
    connection: &mut Connection,
    record: &Record,
    quota: u32,
) -> Result<(), Stop> {
    if let Some(group) = &record.registered_by {
        hold_group(connection, group).await?;
        let registered = read::registered_in(connection, group).await?;
        if registered >= i64::from(quota) {
            let group = group.clone();
            return Err(Fault::QuotaFull { group, quota }.into());
        }
    }
    insert(connection, std::slice::from_ref(record)).await?;
    note_changes(connection, &[&record.device]).await
}

/// Changes one device; gives it as it is afterwards.
pub(in crate::registry) async fn change(
    connection: &mut Connection,
    device: &DeviceId,
    now: i64,
    change: &mut (dyn FnMut(&mut Record) -> Result<(), String> + Send),
) -> Result<Record, Stop> {
    hold_device(connection, device).await?;
    let found = read::find(connection, device).await?;
    let before = found.ok_or_else(|| Fault::NoDevice(device.clone()))?;
    let mut record = before.clone();
    change(&mut record).map_err(Fault::Refused)?;
    record.device = before.device;
    record.created = before.created;
    record.changed = now;
    record
        .credentials
        .sort_by_key(|credential| credential.number);
    well_formed(std::slice::from_ref(&record))?;
    update(connection, &record).await?;
    note_changes(connection, &[device]).await?;
    Ok(record)
}

async fn update(connection: &mut Connection, record: &Record) -> Result<(), Stop> {
    let id = record.device.as_str();
    let query = sqlx::query(
        "UPDATE device SET description = $2, labels = $3, enabled = $4, min_mode = $5, connections = $6, \
         registered_by = $7, changed = $8 WHERE id = $1",
    );
    query
        .bind(id)
        .bind(&record.description)
        .bind(labels(record))
        .bind(record.enabled)
        .bind(record.min_mode.word())
        .bind(record.connections.map(i64::from))
        .bind(&record.registered_by)
        .bind(record.changed)
        .execute(&mut *connection)
        .await?;
    let query = sqlx::query("DELETE FROM credential WHERE device = $1").bind(id);
    query.execute(&mut *connection).await?;
    insert_credentials(connection, std::slice::from_ref(record)).await
}

/// Removes a device, with what belongs to it.
pub(in crate::registry) async fn remove(
    connection: &mut Connection,
    device: &DeviceId,
) -> Result<(), Stop> {
    let query = sqlx::query("DELETE FROM device WHERE id = $1").bind(device.as_str());
    let removed = query.execute(&mut *connection).await?.rows_affected();
    if removed == 0 {
        return Err(Fault::NoDevice(device.clone()).into());
    }
    note_changes(connection, &[device]).await
}

/// Notes what was changed, and lets those who listen know at the commit. The last thing in a transaction: from here on others wait.
async fn note_changes(connection: &mut Connection, devices: &[&DeviceId]) -> Result<(), Stop> {
    if devices.is_empty() {
        return Ok(());
    }
    hold_changes(connection).await?;
    let noted: Vec<_> = if devices.len() <= MOST_CHANGES {
        devices.iter().map(|device| Some(device.as_str())).collect()
    } else {
        vec![None]
    };
    for some in noted.chunks(CHUNK) {
        let mut query = QueryBuilder::<Db>::new("INSERT INTO change (device) ");
        query.push_values(some, |mut values, device| {
            values.push_bind(*device);
        });
        query.build().execute(&mut *connection).await?;
    }
    let prune = "DELETE FROM change WHERE seq <= (SELECT max(seq) FROM change) - $1";
    let query = sqlx::query(prune).bind(KEPT_CHANGES);
    query.execute(&mut *connection).await?;
    tell(connection).await
}

/// Notes when devices were seen, unless they were seen later. `seen`: each device once, sorted, so that two gates do not wait for
/// each other.
pub(in crate::registry) async fn note_seen(
    connection: &mut Connection,
    seen: &[(&DeviceId, &LastSeen)],
) -> Result<(), Stop> {
    for some in seen.chunks(CHUNK) {
        let mut query =
            QueryBuilder::<Db>::new("WITH noted (device, at, address, mode, certificate) AS (");
        query.push_values(some, |mut values, (device, seen)| {
            let certificate = seen.certificate.as_ref().map(|print| &print[..]);
            values
                .push_bind(device.as_str())
                .push_bind(seen.at)
                .push_bind(&seen.address)
                .push_bind(seen.mode.word())
                .push_bind(certificate);
        });
        query.push(
            ") INSERT INTO seen (device, at, address, mode, certificate) \
             SELECT d.id, n.at, n.address, n.mode, n.certificate FROM noted n JOIN device d ON d.id = n.device \
             WHERE true ORDER BY d.id",
        );
        query.push(LOCK_SEEN).push(
            " ON CONFLICT (device) DO UPDATE SET at = excluded.at, address = excluded.address, mode = excluded.mode, \
             certificate = excluded.certificate WHERE excluded.at >= seen.at",
        );
        query
            .build()
            .persistent(false)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// The check value of the token key; `own`, if there was none.
pub(in crate::registry) async fn token_key_check(
    connection: &mut Connection,
    own: &[u8; 16],
) -> Result<[u8; 16], Stop> {
    let query = sqlx::query(
        "INSERT INTO meta (key, value) VALUES ('token_key_check', $1) ON CONFLICT (key) DO NOTHING",
    );
    query.bind(&own[..]).execute(&mut *connection).await?;
    let kept = read::token_key(connection).await?;
    Ok(kept.unwrap_or(*own))
}
