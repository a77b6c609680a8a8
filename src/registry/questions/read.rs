//! Questions that change nothing.

use std::collections::HashSet;

use sqlx::{QueryBuilder, Row as _};

use crate::registry::fault::Stop;
use crate::registry::{Change, Changes, Fault, Filter};
use crate::rules::device::DeviceId;
use crate::rules::record::{LastSeen, Pin, Print, Proof, Record};

use super::super::push_label;
use super::row::{self, Listed, column, pin_columns};
use super::{CHUNK, Connection, Db, MOST_CHANGES};

/// The record of a device.
pub(in crate::registry) async fn find(
    connection: &mut Connection,
    device: &DeviceId,
) -> Result<Option<Record>, Stop> {
    let mut query = row::records();
    query.push("id = ").push_bind(device.as_str());
    first(connection, query).await
}

/// The record of the device that has one of `pins` pinned; with several devices, of the one with the first.
pub(in crate::registry) async fn find_pinned(
    connection: &mut Connection,
    pins: &[Pin],
) -> Result<Option<Record>, Stop> {
    if pins.is_empty() {
        return Ok(None);
    }
    let mut query = row::records();
    query.push("id = (");
    push_asked(&mut query, pins);
    query.push("SELECT device FROM ").push(ASKED);
    query.push(" ORDER BY place LIMIT 1)");
    first(connection, query).await
}

/// The record of the device that has `print` in a credential that is no token, pinned ones first; or else of the one that was
/// last seen with a certificate of this fingerprint. Looks through all that no index knows.
pub(in crate::registry) async fn find_by_print(
    connection: &mut Connection,
    print: &Print,
) -> Result<Option<Record>, Stop> {
    let mut query = row::records();
    query
        .push("id = coalesce((SELECT device FROM credential WHERE proof <> 'token' AND print = ")
        .push_bind(&print[..])
        .push(" ORDER BY proof LIMIT 1), (SELECT device FROM seen WHERE certificate = ")
        .push_bind(&print[..])
        .push(" ORDER BY at DESC LIMIT 1))");
    first(connection, query).await
}

async fn first(
    connection: &mut Connection,
    mut query: QueryBuilder<Db>,
) -> Result<Option<Record>, Stop> {
    let rows = query.push(row::END).build().fetch_all(connection).await?;
    let first = row::read_records(&rows)?.into_iter().next();
    Ok(first.map(|(record, _)| record))
}

/// Begins a query with `pins` as a table, `asked`, in their order.
fn push_asked<'a>(query: &mut QueryBuilder<Db>, pins: impl IntoIterator<Item = &'a Pin>) {
    query.push("WITH asked (place, kind, hash) AS (");
    query.push_values((0_i64..).zip(pins), |mut values, (place, pin)| {
        let (kind, print) = pin_columns(pin);
        values.push_bind(place).push_bind(kind).push_bind(print);
    });
    query.push(") ");
}

/// What of `asked` is pinned.
const ASKED: &str =
    "asked JOIN credential ON proof = 'pinned' AND pin = asked.kind AND print = asked.hash";

/// Whose `records` are in the way of adding `records`, or, when they are not `new`, of changing them.
pub(in crate::registry) async fn who_has(
    connection: &mut Connection,
    records: &[Record],
    new: bool,
) -> Result<Option<Fault>, Stop> {
    for some in records.chunks(CHUNK) {
        if new && let Some(device) = taken_id(connection, some).await? {
            return Ok(Some(Fault::DeviceExists(device)));
        }
        for pins in pinned(some).collect::<Vec<_>>().chunks(CHUNK) {
            let own = (!new).then(|| &some[0].device);
            if let Some((pin, device)) = taken_pin(connection, pins, own).await? {
                return Ok(Some(Fault::PinExists { pin, device }));
            }
        }
    }
    Ok(None)
}

fn pinned(records: &[Record]) -> impl Iterator<Item = &Pin> {
    let credentials = records.iter().flat_map(|record| &record.credentials);
    credentials.filter_map(|credential| match &credential.proof {
        Proof::Pinned(pin) => Some(pin),
        _ => None,
    })
}

async fn taken_id(
    connection: &mut Connection,
    records: &[Record],
) -> Result<Option<DeviceId>, Stop> {
    let mut query = QueryBuilder::<Db>::new("SELECT id FROM device WHERE id IN (");
    let mut ids = query.separated(", ");
    for record in records {
        ids.push_bind(record.device.as_str());
    }
    query.push(") ORDER BY id LIMIT 1");
    let found = query.build().fetch_optional(connection).await?;
    let read = |row: &_| row::device_id(column(row, "id")?);
    Ok(found.as_ref().map(read).transpose()?)
}

async fn taken_pin(
    connection: &mut Connection,
    pins: &[&Pin],
    own: Option<&DeviceId>,
) -> Result<Option<(Pin, DeviceId)>, Stop> {
    let mut query = QueryBuilder::<Db>::new("");
    push_asked(&mut query, pins.iter().copied());
    query.push("SELECT device, pin, print FROM ").push(ASKED);
    if let Some(own) = own {
        query.push(" AND device <> ").push_bind(own.as_str());
    }
    query.push(" ORDER BY place LIMIT 1");
    let found = query.build().fetch_optional(connection).await?;
    Ok(found.as_ref().map(row::pinned).transpose()?.flatten())
}

/// When the device was last admitted.
pub(in crate::registry) async fn last_seen(
    connection: &mut Connection,
    device: &DeviceId,
) -> Result<Option<LastSeen>, Stop> {
    let query = sqlx::query("SELECT at, address, mode, certificate FROM seen WHERE device = $1");
    let found = query
        .bind(device.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(found.as_ref().map(row::seen).transpose()?.flatten())
}

/// Up to `most` devices behind `after`, by id.
pub(in crate::registry) async fn list(
    connection: &mut Connection,
    filter: &Filter,
    after: Option<&DeviceId>,
    most: u32,
) -> Result<Vec<Listed>, Stop> {
    let mut query = row::records();
    push_filter(&mut query, filter);
    if let Some(after) = after {
        query.push(" AND id > ").push_bind(after.as_str());
    }
    query.push(" ORDER BY id LIMIT ").push_bind(i64::from(most));
    let rows = query.push(row::END).build().fetch_all(connection).await?;
    Ok(row::read_records(&rows)?)
}

/// How many devices there are.
pub(in crate::registry) async fn count(
    connection: &mut Connection,
    filter: &Filter,
) -> Result<u64, Stop> {
    let mut query = QueryBuilder::new("SELECT count(*) FROM device WHERE ");
    push_filter(&mut query, filter);
    let count: i64 = query.build_query_scalar().fetch_one(connection).await?;
    Ok(count.unsigned_abs())
}

/// How many devices registered themselves in this trust group.
pub(in crate::registry) async fn registered_in(
    connection: &mut Connection,
    group: &str,
) -> Result<i64, Stop> {
    let count = "SELECT count(*) FROM device WHERE registered_by = $1";
    let query = sqlx::query_scalar(count).bind(group);
    Ok(query.fetch_one(connection).await?)
}

fn push_filter(query: &mut QueryBuilder<Db>, filter: &Filter) {
    query.push("true");
    if let Some(prefix) = &filter.prefix {
        // Ids are ASCII and compare byte by byte. No LIKE: it knows wildcards, and in SQLite no case.
        query.push(" AND id >= ").push_bind(prefix);
        query.push(" AND id < ").push_bind(format!("{prefix}\x7f"));
    }
    for (name, value) in &filter.labels {
        push_label(query.push(" AND "), name, value);
    }
    if let Some(enabled) = filter.enabled {
        query.push(" AND enabled = ").push_bind(enabled);
    }
    if let Some(mode) = filter.min_mode {
        query.push(" AND min_mode = ").push_bind(mode.word());
    }
    if let Some(group) = &filter.trust {
        query
            .push(" AND EXISTS (SELECT 1 FROM credential WHERE device = id AND trust = ")
            .push_bind(group)
            .push(")");
    }
}

/// The place of the last change.
pub(in crate::registry) async fn place(connection: &mut Connection) -> Result<i64, Stop> {
    let query = sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM change");
    Ok(query.fetch_one(connection).await?)
}

/// What changed behind `place`.
pub(in crate::registry) async fn changes(
    connection: &mut Connection,
    place: i64,
) -> Result<Changes, Stop> {
    // One statement, so that the ends are those of the rows. Without changes it is two looks at an index.
    let query = sqlx::query(
        "SELECT ends.oldest, ends.newest, change.seq, change.device \
         FROM (SELECT coalesce((SELECT min(seq) FROM change), 0) AS oldest, \
                      coalesce((SELECT max(seq) FROM change), 0) AS newest) ends \
         LEFT JOIN change ON change.seq > $1 ORDER BY change.seq LIMIT $2",
    );
    let most = i64::try_from(MOST_CHANGES + 1).unwrap_or(i64::MAX);
    let rows = query.bind(place).bind(most).fetch_all(connection).await?;
    let (oldest, newest): (i64, i64) = match rows.first() {
        Some(row) => (column(row, "oldest")?, column(row, "newest")?),
        None => (0, 0),
    };
    let everything = Changes {
        changes: vec![Change::Everything],
        place: newest,
    };
    if place == newest {
        let changes = Vec::new();
        return Ok(Changes { changes, place });
    }
    // Pruned behind `place`; a registry brought back from an older copy; more than is told one by one.
    if place + 1 < oldest || place > newest || rows.len() > MOST_CHANGES {
        return Ok(everything);
    }
    let (mut told, mut changes) = (HashSet::new(), Vec::new());
    for row in &rows {
        match column::<Option<&str>>(row, "device")? {
            None => return Ok(everything),
            Some(id) if told.insert(id) => changes.push(Change::Device(row::device_id(id)?)),
            Some(_) => {}
        }
    }
    Ok(Changes {
        changes,
        place: newest,
    })
}

/// The check value of the token key; `None`: none was used yet.
pub(in crate::registry) async fn token_key(
    connection: &mut Connection,
) -> Result<Option<[u8; 16]>, Stop> {
    let query = sqlx::query("SELECT value FROM meta WHERE key = 'token_key_check'");
    let Some(row) = query.fetch_optional(connection).await? else {
        return Ok(None);
    };
    let value: &[u8] = row.try_get(0)?;
    let check = value.try_into().map_err(|_| {
        Fault::Unusable(
            "the registry's check value of the token key is damaged; restore the registry".into(),
        )
    })?;
    Ok(Some(check))
}
