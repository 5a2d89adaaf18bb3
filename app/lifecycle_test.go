package app

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestLifecycle_StopsInReverseOrderWhateverAStepAnswers(t *testing.T) {
	l := newLifecycle(slog.New(slog.DiscardHandler))
	var order []string
	broken := errors.New("broken")
	for _, name := range []string{"cache", "broker link", "http"} {
		l.onStop(name, func(context.Context) error {
			order = append(order, name)
			if name == "broker link" {
				return broken
			}
			return nil
		})
	}

	err := l.stop(t.Context())

	if !errors.Is(err, broken) {
		t.Errorf("stop answered %v, want the error of the broken step", err)
	}
	if want := []string{"http", "broker link", "cache"}; !slices.Equal(order, want) {
		t.Errorf("stopped in the order %v, want %v", order, want)
	}
	if err := l.stop(t.Context()); err != nil || len(order) != 3 {
		t.Errorf("a second stop answered %v and ran %d steps, want none", err, len(order)-3)
	}
}

func TestLifecycle_AStepThatHangsLeavesTheOthersTheirTurn(t *testing.T) {
	tests := map[string]func(l *lifecycle, release chan struct{}){
		"a part that does not end": func(l *lifecycle, release chan struct{}) {
			l.background("stuck", func(context.Context) error { <-release; return nil })
		},
		"a step that does not look at its deadline": func(l *lifecycle, release chan struct{}) {
			l.onStop("stuck", func(context.Context) error { <-release; return nil })
		},
	}
	for name, stuck := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				l := newLifecycle(slog.New(slog.DiscardHandler))
				closed := false
				l.onStop("listener", func(context.Context) error { closed = true; return nil })
				stuck(l, release)
				ctx, cancel := context.WithTimeout(t.Context(), StopWithin)
				defer cancel()
				began := time.Now()

				err := l.stop(ctx)

				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("stop answered %v, want that the deadline passed", err)
				}
				if took := time.Since(began); took > StopWithin+2*lastChance {
					t.Errorf("stop took %s, want hardly more than %s", took, StopWithin)
				}
				if !closed {
					t.Error("the step below the stuck one did not run")
				}
				close(release)
			})
		})
	}
}

func TestLifecycle_APartThatEndsByItselfIsAFailure(t *testing.T) {
	broken := errors.New("port gone")
	tests := map[string]struct {
		answer error
		want   string
	}{
		"with an error": {broken, "http: port gone"},
		"without one":   {nil, "http: it ended without an error"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLifecycle(slog.New(slog.DiscardHandler))
			l.background("http", func(context.Context) error { return tt.answer })

			if err := <-l.failed; err.Error() != tt.want {
				t.Errorf("failed with %q, want %q", err, tt.want)
			}
			if err := l.stop(t.Context()); err != nil {
				t.Errorf("stop: %v", err)
			}
		})
	}
}

func TestLifecycle_APartThatIsStoppedIsNoFailure(t *testing.T) {
	l := newLifecycle(slog.New(slog.DiscardHandler))
	l.background("http", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })

	if err := l.stop(t.Context()); err != nil {
		t.Errorf("stop: %v", err)
	}
	select {
	case err := <-l.failed:
		t.Errorf("reported as failed: %v", err)
	default:
	}
}
