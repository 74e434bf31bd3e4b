//! The figures of `/metrics` as OTLP has them, and the task that tells a collector of them from time to time. They are put into
//! OTLP's messages here because nobody but OpenTelemetry's SDK can make what its exporter of metrics takes
//! (`opentelemetry_sdk::metrics::data` has no constructors), and they are counted by the registry behind the page.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kubebrain_net::metrics::Metrics;
use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue as Label};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource as Owner;
use opentelemetry_proto::transform::common::tonic::Attributes;
use opentelemetry_sdk::Resource;
use prometheus::proto::{self, MetricFamily, MetricType};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::Fates;
use super::link::Figures;
use super::queue::Teller;
use super::spans::SCOPE;

/// What is told, and how often.
pub(super) struct Telling {
    pub metrics: Metrics,
    pub resource: Resource,
    pub interval: Duration,
}

/// Between which moments counters have counted.
#[derive(Clone, Copy)]
struct Span {
    began: u64,
    now: u64,
}

/// Tells until `ended`, and then once more.
#[expect(clippy::disallowed_methods, reason = "a collector puts figures of several machines together")]
pub(super) async fn send(
    telling: Telling,
    mut link: Figures,
    mut ended: oneshot::Receiver<()>,
    fates: Arc<Fates>,
) {
    let Telling { metrics, resource, interval } = telling;
    let began = nanos(SystemTime::now());
    let mut ticks = interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut teller = Teller::new("figures", "metrics", &link.way, fates);
    loop {
        let is_last = tokio::select! { biased;
            _ = &mut ended => true,
            _ = ticks.tick() => false,
        };
        let span = Span { began, now: nanos(SystemTime::now()) };
        let outcome = link.send(message(&metrics.families(), span, &resource)).await;
        teller.tell(&outcome, 1);
        if is_last {
            return;
        }
    }
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn message(families: &[MetricFamily], span: Span, resource: &Resource) -> ExportMetricsServiceRequest {
    let metrics = families.iter().filter_map(|family| metric(family, span)).collect();
    let scope = InstrumentationScope { name: SCOPE.to_owned(), ..InstrumentationScope::default() };
    let owner = resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Owner { attributes: Attributes::from(owner).0, ..Owner::default() }),
            scope_metrics: vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        }],
    }
}

fn metric(family: &MetricFamily, span: Span) -> Option<Metric> {
    let rows = family.get_metric().iter();
    let temporality = AggregationTemporality::Cumulative.into();
    let data = match family.get_field_type() {
        MetricType::COUNTER => Data::Sum(Sum {
            data_points: rows.map(|row| point(row, row.get_counter().get_value(), span)).collect(),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        MetricType::GAUGE => Data::Gauge(Gauge {
            data_points: rows.map(|row| point(row, row.get_gauge().get_value(), span)).collect(),
        }),
        MetricType::HISTOGRAM => Data::Histogram(Histogram {
            data_points: rows.map(|row| histogram(row, span)).collect(),
            aggregation_temporality: temporality,
        }),
        // Nobody makes one.
        MetricType::SUMMARY | MetricType::UNTYPED => return None,
    };
    Some(Metric {
        name: family.name().to_owned(),
        description: family.help().to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

fn labels(row: &proto::Metric) -> Vec<Label> {
    let labels = row.get_label().iter();
    Attributes::from(labels.map(|label| KeyValue::new(label.name().to_owned(), label.value().to_owned()))).0
}

fn point(row: &proto::Metric, value: f64, span: Span) -> NumberDataPoint {
    NumberDataPoint {
        attributes: labels(row),
        start_time_unix_nano: span.began,
        time_unix_nano: span.now,
        value: Some(Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

/// Prometheus counts in each bucket what is in those before it too, and leaves the last one out.
fn histogram(row: &proto::Metric, span: Span) -> HistogramDataPoint {
    let histogram = row.get_histogram();
    let finite = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    let (bounds, below): (Vec<_>, Vec<_>) =
        finite.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).unzip();
    // A row is read while it counts: what is above may be counted there and not in all yet.
    let count = histogram.get_sample_count().max(below.last().copied().unwrap_or(0));
    let mut before = 0;
    let own = |below: u64| below.saturating_sub(std::mem::replace(&mut before, below));
    HistogramDataPoint {
        attributes: labels(row),
        start_time_unix_nano: span.began,
        time_unix_nano: span.now,
        count,
        sum: Some(histogram.get_sample_sum()),
        bucket_counts: below.into_iter().chain([count]).map(own).collect(),
        explicit_bounds: bounds,
        ..HistogramDataPoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_figure_is_told_as_what_it_is() {
        let metrics = Metrics::new();
        metrics.counters("c_total", "Counted.", &["group"]).with_label_values(&["core"]).inc_by(7);
        metrics.gauge("g", "Measured.").set(-3);
        let histogram = metrics.histogram("h", "Spread.", vec![1.0, 2.0, 4.0]);
        [0.5, 1.5, 1.6, 3.0, 9.0].into_iter().for_each(|value| histogram.observe(value));
        let span = Span { began: 1, now: 2 };
        let told = message(&metrics.families(), span, &Resource::builder_empty().build());
        let told = &told.resource_metrics[0].scope_metrics[0].metrics;
        let names: Vec<_> =
            told.iter().map(|metric| (metric.name.as_str(), metric.description.as_str())).collect();
        assert_eq!(names, [("c_total", "Counted."), ("g", "Measured."), ("h", "Spread.")]);
        let Some(Data::Sum(sum)) = &told[0].data else { panic!("{told:?}") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
        let point = &sum.data_points[0];
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1, 2));
        assert_eq!(
            (point.value, &point.attributes),
            (Some(Value::AsDouble(7.0)), &Attributes::from([KeyValue::new("group", "core")]).0)
        );
        let Some(Data::Gauge(gauge)) = &told[1].data else { panic!("{told:?}") };
        assert_eq!(gauge.data_points[0].value, Some(Value::AsDouble(-3.0)));
        let Some(Data::Histogram(histogram)) = &told[2].data else { panic!("{told:?}") };
        let point = &histogram.data_points[0];
        assert_eq!(
            (&point.explicit_bounds[..], &point.bucket_counts[..]),
            (&[1.0, 2.0, 4.0][..], &[1, 2, 1, 1][..])
        );
        assert_eq!((point.count, point.sum), (5, Some(15.6)));
    }
}
