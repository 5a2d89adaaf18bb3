package bridge

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

const (
	maxBody = 64 << 10 // bytes of a command
	maxWait = 60       // seconds of a poll
)

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/devices/{id}/commands", s.authenticated(s.send))
	mux.HandleFunc("GET /v1/devices/{id}/replies", s.authenticated(s.poll))
	return mux
}

// authenticated finds out which client calls.
func (s *Server) authenticated(handle func(http.ResponseWriter, *http.Request, string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		client, ok := s.cfg.Tokens[token]
		if !ok {
			fail(w, http.StatusUnauthorized, "unauthenticated", "a bearer token is needed")
			return
		}
		handle(w, r, client)
	}
}

// send notes whose request it is, and then publishes the command.
func (s *Server) send(w http.ResponseWriter, r *http.Request, client string) {
	var asked struct {
		Command string          `json:"command"`
		Args    json.RawMessage `json:"args,omitempty"`
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil || json.Unmarshal(data, &asked) != nil || asked.Command == "" {
		fail(w, http.StatusBadRequest, "malformed_json", "want a command and perhaps args")
		return
	}
	device := r.PathValue("id")
	to, ok := topic(device)
	if !ok {
		fail(w, http.StatusNotFound, "device_not_found", "no such device")
		return
	}
	id := rand.Text()
	message, err := json.Marshal(map[string]any{
		"request_id": id, "command": asked.Command, "args": asked.Args, "sent_at": time.Now().UTC(),
	})
	if err != nil {
		fail(w, http.StatusBadRequest, "malformed_json", "the arguments are no JSON")
		return
	}
	if err := s.own(r.Context(), id, client); err != nil {
		s.log.Error("request not stored", "error", err)
		fail(w, http.StatusServiceUnavailable, "cache_unavailable", "try again")
		return
	}
	if err := wait(s.mqtt.Publish(to, 1, false, message)); err != nil {
		s.log.Error("command not published", "error", err)
		fail(w, http.StatusServiceUnavailable, "broker_unavailable", "try again")
		return
	}
	answer(w, http.StatusAccepted, map[string]string{"request_id": id, "device_id": device, "command": asked.Command})
}

// own notes in Redis which client a request belongs to.
func (s *Server) own(ctx context.Context, requestID, client string) error {
	ctx, cancel := context.WithTimeout(ctx, redisWithin)
	defer cancel()
	return s.redis.Do(ctx, s.redis.B().Set().Key(ownerKey(requestID)).Value(client).Ex(keep).Build()).Error()
}

// poll takes the reply to one request of this client, and waits for it where it is asked to.
func (s *Server) poll(w http.ResponseWriter, r *http.Request, client string) {
	query := r.URL.Query()
	id := query.Get("request_id")
	seconds, err := strconv.Atoi(query.Get("wait"))
	if query.Get("wait") != "" && (err != nil || seconds < 0 || seconds > maxWait) {
		fail(w, http.StatusUnprocessableEntity, "invalid_request", fmt.Sprintf("wait must be from 0 to %d", maxWait))
		return
	}
	until := time.NewTimer(time.Duration(seconds) * time.Second)
	defer until.Stop()
	for {
		stored := s.waiters.wait(id)
		reply, err := s.take(r.Context(), client, id)
		if err == nil || !rueidis.IsRedisNil(err) {
			s.waiters.forget(id)
			s.show(w, reply, err)
			return
		}
		select {
		case <-stored:
		case <-until.C:
			s.waiters.forget(id)
			s.show(w, nil, nil)
			return
		case <-r.Context().Done():
			s.waiters.forget(id)
			return
		}
	}
}

// take reads a reply and deletes it.
func (s *Server) take(ctx context.Context, client, requestID string) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, redisWithin)
	defer cancel()
	return s.redis.Do(ctx, s.redis.B().Getdel().Key(replyKey(client, requestID)).Build()).AsBytes()
}

// show answers a poll with a reply, with none, or with what went wrong.
func (s *Server) show(w http.ResponseWriter, reply json.RawMessage, err error) {
	switch {
	case errors.Is(err, context.Canceled): // nobody listens
	case err != nil:
		s.log.Error("reply not read", "error", err)
		fail(w, http.StatusServiceUnavailable, "cache_unavailable", "try again")
	case reply == nil:
		answer(w, http.StatusOK, map[string]any{"replies": []json.RawMessage{}, "answered": false})
	default:
		answer(w, http.StatusOK, map[string]any{"replies": []json.RawMessage{reply}, "answered": true})
	}
}

func answer(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil { // the camera's reply is no JSON after all
		fail(w, http.StatusBadGateway, "wrong_answer", "the reply is no JSON")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data) // the client is gone, or has it
}

func fail(w http.ResponseWriter, status int, code, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "code": code, "detail": detail})
}
