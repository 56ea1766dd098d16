// Package metrics counts what a daemon does, for Prometheus.
package metrics

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/stowage/stowage"
)

// Metrics are those of one daemon. Goroutines may share them.
type Metrics struct {
	all *prometheus.Registry

	requests        *prometheus.CounterVec
	requestDuration *prometheus.HistogramVec
	underWay        prometheus.Gauge

	transfers        *prometheus.CounterVec
	transferDuration *prometheus.HistogramVec
	blobs, bytes     *prometheus.CounterVec

	collections *prometheus.CounterVec
	collecting  prometheus.Histogram
	pause       prometheus.Histogram
	removed     *prometheus.CounterVec
	freed       prometheus.Counter

	findings *prometheus.GaugeVec
	examined prometheus.Gauge
}

// New makes the metrics of a daemon of a version.
func New(version string) *Metrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Name: "stowage_" + name, Help: help}
	}
	gauge := func(name, help string) prometheus.GaugeOpts {
		return prometheus.GaugeOpts{Name: "stowage_" + name, Help: help}
	}
	histogram := func(name, help string, first float64, count int) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Name: "stowage_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(first, 4, count)}
	}
	m := &Metrics{
		all: prometheus.NewRegistry(),

		requests:        prometheus.NewCounterVec(counter("requests_total", "Requests that ended, by method and gRPC code."), []string{"method", "code"}),
		requestDuration: prometheus.NewHistogramVec(histogram("request_duration_seconds", "How long requests took.", 0.001, 9), []string{"method"}),
		underWay:        prometheus.NewGauge(gauge("requests_in_flight", "Requests that are under way.")),

		transfers:        prometheus.NewCounterVec(counter("transfers_total", "Transfers that ended: pull, push, import, export; ok, cancelled or failed."), []string{"kind", "result"}),
		transferDuration: prometheus.NewHistogramVec(histogram("transfer_duration_seconds", "How long transfers took that did what was asked.", 0.1, 9), []string{"kind"}),
		blobs:            prometheus.NewCounterVec(counter("transfer_blobs_total", "Blobs of transfers that were moved, or reused because they were there."), []string{"kind", "how"}),
		bytes:            prometheus.NewCounterVec(counter("transfer_bytes_total", "Bytes of those blobs."), []string{"kind", "how"}),

		collections: prometheus.NewCounterVec(counter("gc_total", "Collections that ended: ok, cancelled or failed."), []string{"result"}),
		collecting:  prometheus.NewHistogram(histogram("gc_duration_seconds", "How long collections took.", 0.001, 9)),
		pause:       prometheus.NewHistogram(histogram("gc_pause_seconds", "How long a collection kept others from writing rows at most.", 0.0001, 9)),
		removed:     prometheus.NewCounterVec(counter("gc_removed_total", "What collections took away: blob, snapshot, image (names that were removed before), ingest."), []string{"what"}),
		freed:       prometheus.NewCounter(counter("gc_freed_bytes_total", "Bytes of the blobs and files that collections took away.")),

		findings: prometheus.NewGaugeVec(gauge("findings", "What the last examination found that is not mended, by kind."), []string{"kind"}),
		examined: prometheus.NewGauge(gauge("examined_timestamp_seconds", "When the last examination ended.")),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "stowage_build_info", Help: "1, with the version as a label.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	m.all.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build,
		m.requests, m.requestDuration, m.underWay, m.transfers, m.transferDuration, m.blobs, m.bytes,
		m.collections, m.collecting, m.pause, m.removed, m.freed, m.findings, m.examined,
	)
	return m
}

// Handler answers with all metrics.
func (m *Metrics) Handler() http.Handler { return promhttp.HandlerFor(m.all, promhttp.HandlerOpts{}) }

// Began notes that a request is under way, until ended is called.
func (m *Metrics) Began(method string) (ended func(code string)) {
	began := time.Now()
	m.underWay.Inc()
	return func(code string) {
		m.underWay.Dec()
		m.requests.WithLabelValues(method, code).Inc()
		m.requestDuration.WithLabelValues(method).Observe(time.Since(began).Seconds())
	}
}

// Ended notes an act of the store: it is for [stowage.Options].
func (m *Metrics) Ended(a stowage.Act) {
	result := "ok"
	switch {
	case errors.Is(a.Err, context.Canceled):
		result = "cancelled"
	case a.Err != nil:
		result = "failed"
	}
	switch a.Kind {
	case stowage.CollectAct:
		m.collections.WithLabelValues(result).Inc()
		m.collecting.Observe(a.Took.Seconds())
		m.pause.Observe(a.Collected.Longest.Seconds())
		m.freed.Add(float64(a.Collected.Bytes + a.Collected.Unpacked.Size))
		for what, n := range map[string]int{
			"blob": len(a.Collected.Blobs), "snapshot": len(a.Collected.Snapshots), "image": len(a.Collected.Images), "ingest": len(a.Collected.Ingests),
		} {
			m.removed.WithLabelValues(what).Add(float64(n))
		}
	case stowage.ExamineAct:
		if a.Err != nil {
			return // it did not look at everything
		}
		m.findings.Reset()
		for _, f := range a.Findings {
			if !f.Repaired {
				m.findings.WithLabelValues(f.Kind).Inc()
			}
		}
		m.examined.SetToCurrentTime()
	default:
		m.transfers.WithLabelValues(a.Kind, result).Inc()
		if a.Err == nil {
			m.transferDuration.WithLabelValues(a.Kind).Observe(a.Took.Seconds())
		}
		for how, n := range map[string]stowage.Count{"moved": a.Moved, "reused": a.Reused} {
			m.blobs.WithLabelValues(a.Kind, how).Add(float64(n.Blobs))
			m.bytes.WithLabelValues(a.Kind, how).Add(float64(n.Bytes))
		}
	}
}
