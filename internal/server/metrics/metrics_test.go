package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/gc"
	"github.com/stowage/stowage/internal/metadata"
)

// answer is what Prometheus gets.
func answer(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	b, err := io.ReadAll(w.Body)
	if err != nil || w.Code != 200 {
		t.Fatalf("status %d, %v: %s", w.Code, err, b)
	}
	return string(b)
}

func TestMetrics(t *testing.T) {
	m := New("1.2.3")
	m.Began("/a/B") // and goes on
	m.Began("/a/B")("OK")
	m.Ended(stowage.Act{Kind: stowage.PullAct, Took: time.Second, Moved: stowage.Count{Blobs: 2, Bytes: 30}, Reused: stowage.Count{Blobs: 1, Bytes: 5}})
	m.Ended(stowage.Act{Kind: stowage.PullAct, Err: fmt.Errorf("pull: %w", context.Canceled)})
	m.Ended(stowage.Act{Kind: stowage.PushAct, Err: errors.New("broken")})
	r := gc.NewReport()
	r.Blobs, r.Bytes, r.Longest = make([]metadata.Garbage, 3), 70, 2*time.Millisecond
	r.Unpacked.Size = 30
	m.Ended(stowage.Act{Kind: stowage.CollectAct, Collected: &r})
	m.Ended(stowage.Act{Kind: stowage.ExamineAct, Findings: []stowage.Finding{{Kind: "gone"}}})
	m.Ended(stowage.Act{Kind: stowage.ExamineAct, Findings: []stowage.Finding{{Kind: "missing-blob"}, {Kind: "missing-blob"}, {Kind: "missing-blob", Repaired: true}}})
	m.Ended(stowage.Act{Kind: stowage.ExamineAct, Err: context.Canceled})
	got := answer(t, m)
	for _, want := range []string{
		`stowage_build_info{goversion="go`,
		`version="1.2.3"} 1`,
		"stowage_requests_in_flight 1",
		`stowage_requests_total{code="OK",method="/a/B"} 1`,
		`stowage_request_duration_seconds_count{method="/a/B"} 1`,
		`stowage_transfers_total{kind="pull",result="ok"} 1`,
		`stowage_transfers_total{kind="pull",result="cancelled"} 1`,
		`stowage_transfers_total{kind="push",result="failed"} 1`,
		`stowage_transfer_duration_seconds_sum{kind="pull"} 1`,
		`stowage_transfer_blobs_total{how="reused",kind="pull"} 1`,
		`stowage_transfer_bytes_total{how="moved",kind="pull"} 30`,
		`stowage_gc_total{result="ok"} 1`,
		`stowage_gc_removed_total{what="blob"} 3`,
		"stowage_gc_freed_bytes_total 100",
		"stowage_gc_pause_seconds_sum 0.002",
		`stowage_findings{kind="missing-blob"} 2`,
		"go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, "gone") {
		t.Error("a finding of the examination before is still told")
	}
}
