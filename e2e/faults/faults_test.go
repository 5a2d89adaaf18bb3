package faults

import (
	"bytes"
	"context"
	"encoding/xml"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Toxiproxy leaves goroutines behind where a connection is closed while data are on the way through it.
	const link, toxic = "github.com/Shopify/toxiproxy/v2.(*ToxicLink)", "github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub)"
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction(link+".read"),
		goleak.IgnoreAnyFunction(link+".write"),
		goleak.IgnoreAnyFunction(toxic+".Run"),
	)
}

// start makes a run with the program as it is now.
func start(t *testing.T, steps ...Step) *Report {
	t.Helper()
	binary, err := Build(t.Context(), t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	var progress bytes.Buffer
	report, err := Run(t.Context(), Config{Binary: binary, Rate: 20, Seed: 1, Steps: steps, Progress: &progress})
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	t.Logf("%s\n%s", progress.String(), report.Summary())
	return report
}

// TestRun_EveryPromiseIsKept goes through the faults that need little time, on one system (I1 to I9).
func TestRun_EveryPromiseIsKept(t *testing.T) {
	t.Parallel()
	const curves = 5 + 4*(apiCount+1)                            // what was read, how fast; goroutines, files, heap, memory of each process
	const long, short = 4 * time.Second, 1500 * time.Millisecond // the long ones have answers in full force
	var steps []Step
	for _, one := range []struct {
		id string
		d  time.Duration
	}{{"F1", long}, {"F3", long}, {"F4", short}, {"F5", long}, {"F7", short}, {"F9", short}, {"F10", short}, {"F10b", short}, {"F11", short}, {"F13", short}, {"F15", short}} {
		f, err := Find(one.id)
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, Step{Fault: f, After: 500 * time.Millisecond, For: one.d})
	}
	report := start(t, steps...)
	if !report.Verdict.OK() {
		t.Error(report.Summary())
	}
	if v := report.Verdict; v.Histories < v.Acked*9/10 {
		t.Errorf("%d histories of %d replies", v.Histories, v.Acked)
	}
	if report.Verdict.AfterGrace == 0 {
		t.Error("no reply was asked for again after its grace")
	}
	if rows := report.Rows(); len(rows) != len(steps) {
		t.Errorf("%d faults in the report, want %d", len(rows), len(steps))
	}
	var page, doc bytes.Buffer
	if err := WriteHTML(&page, []*Report{report}); err != nil || strings.Count(page.String(), "<polyline") != curves {
		t.Errorf("the page has not its %d curves: %v", curves, err)
	}
	var chaos, picture bytes.Buffer
	if err := WriteChaos(&chaos, report, "command", "chaos.svg"); err != nil || !strings.Contains(chaos.String(), "| F10 broker killed") {
		t.Errorf("the report lacks a fault: %v", err)
	}
	if err := WriteSVG(&picture, report); err != nil || xml.Unmarshal(picture.Bytes(), new(struct{})) != nil {
		t.Errorf("the picture is no XML: %v", err)
	}
	if err := WriteReliability(&doc, []*Report{report}, nil, "command"); err != nil || !strings.Contains(doc.String(), "| F10 |") {
		t.Errorf("the table lacks a fault: %v", err)
	}
}

// TestRun_SeesALoss proves that the harness can fail: the cache is emptied and nobody owns up to it.
func TestRun_SeesALoss(t *testing.T) {
	t.Parallel()
	sabotage := &Fault{ID: "F0", Name: "replies are stolen", make: func(ctx context.Context, r *run, d time.Duration) (string, error) {
		for until := time.Now().Add(d); time.Now().Before(until); hold(ctx, 20*time.Millisecond) {
			if err := r.redisDo("FLUSHALL"); err != nil {
				return "", err
			}
		}
		return "", nil
	}}
	report := start(t, Step{Fault: sabotage, After: time.Second, For: 2 * time.Second})
	for _, kind := range []string{lost, inexplicable} {
		if report.Verdict.Count(kind) == 0 {
			t.Errorf("nothing was seen as %q: %s", kind, report.Summary())
		}
	}
}

func TestRandom_OneSeedIsOneSchedule(t *testing.T) {
	same := func(a, b Step) bool { return a.Fault.ID == b.Fault.ID && a.After == b.After && a.For == b.For }
	steps := Random(7, time.Minute)
	if !slices.EqualFunc(steps, Random(7, time.Minute), same) {
		t.Error("one seed gave two schedules")
	}
	if slices.EqualFunc(steps, Random(8, time.Minute), same) {
		t.Error("two seeds gave one schedule")
	}
	var sum time.Duration
	for _, s := range steps {
		sum += s.After + s.For
	}
	if sum < time.Minute {
		t.Errorf("a schedule of %s, want at least a minute", sum)
	}
}
