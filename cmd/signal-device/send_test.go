package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
)

// fleetServer has so many devices, and hands each command to the handler.
func fleetServer(t *testing.T, devices int, command http.HandlerFunc) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/devices", func(w http.ResponseWriter, _ *http.Request) {
		items := make([]deviceJSON, devices)
		for i := range items {
			items[i].ID, items[i].CreatedAt = fmt.Sprintf("d%d", i), "2026-11-24T09:00:00.000Z"
		}
		answer(w, http.StatusOK, map[string]any{"items": items, "next_cursor": nil})
	})
	mux.HandleFunc("POST /v1/devices/{id}/commands", command)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func fleetCommand(server string, parallel int) *sendCommand {
	return &sendCommand{
		clientFlags: clientFlags{serverFlags: serverFlags{Server: server}, Token: goodToken},
		Device:      "ping", Label: map[string]string{"fleet": "north"}, Parallel: parallel, JSON: true,
	}
}

func TestSendToMany_AsManyAtATimeAsAskedAndNoMore(t *testing.T) {
	const parallel = 3
	var mu sync.Mutex
	arrived, now, most := 0, 0, 0
	together := make(chan struct{})
	server := fleetServer(t, 4*parallel, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		arrived++
		now++
		most = max(most, now)
		wait := together
		if arrived%parallel == 0 {
			close(together)
			together = make(chan struct{})
		}
		mu.Unlock()
		select {
		case <-wait:
		case <-r.Context().Done():
		}
		mu.Lock()
		now--
		mu.Unlock()
		answer(w, http.StatusAccepted, map[string]string{"request_id": "r", "device_id": r.PathValue("id"), "state": "sent"})
	})
	var out bytes.Buffer

	err := fleetCommand(server, parallel).Run(t.Context(), &environment{out: &out, err: &out, log: slog.New(slog.DiscardHandler)})

	if err != nil || arrived != 4*parallel {
		t.Errorf("ended with %v after %d commands, want %d:\n%s", err, arrived, 4*parallel, out.String())
	}
	if most != parallel {
		t.Errorf("%d were sent at a time, want %d", most, parallel)
	}
}

func TestSendToMany_AnInterruptSendsToNobodyElse(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var commands atomic.Int32
	server := fleetServer(t, 3, func(w http.ResponseWriter, r *http.Request) {
		commands.Add(1)
		cancel()
		answer(w, http.StatusAccepted, map[string]string{"request_id": "r", "device_id": r.PathValue("id"), "state": "sent"})
	})
	var out bytes.Buffer

	err := fleetCommand(server, 1).Run(ctx, &environment{out: &out, err: &out, log: slog.New(slog.DiscardHandler)})

	if codeOf(err) != exitFailed || commands.Load() != 1 {
		t.Errorf("ended with %v after %d commands, want a failure after 1", err, commands.Load())
	}
	states := map[string]string{}
	for lines := json.NewDecoder(&out); lines.More(); {
		var o outcome
		if err := lines.Decode(&o); err != nil {
			t.Fatal(err)
		}
		states[o.DeviceID] = o.State
	}
	if len(states) != 3 || states["d1"] != "not_sent" || states["d2"] != "not_sent" {
		t.Errorf("the states are %v, want all three, the last two not_sent", states)
	}
}

func TestAPIError_ExitCode(t *testing.T) {
	for name, c := range map[string]struct {
		err  apiError
		want int
	}{
		"the device is offline":           {apiError{Status: 409, Code: "device_offline"}, exitOffline},
		"another conflict":                {apiError{Status: 409, Code: "idempotency_conflict"}, exitRefused},
		"too many calls":                  {apiError{Status: 429, Code: "rate_limited"}, exitRefused},
		"the service fails":               {apiError{Status: 500, Code: "internal"}, exitFailed},
		"nobody knows whether it is sent": {apiError{Status: 503, Code: "outcome_unknown"}, exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			if got := codeOf(fmt.Errorf("send: %w", &c.err)); got != c.want {
				t.Errorf("exit code %d, want %d", got, c.want)
			}
		})
	}
}
