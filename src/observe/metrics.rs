//! observe/metrics
