package cache

import (
	"errors"
	"fmt"
	"strings"

	"github.com/redis/rueidis"

	"signaldevice/device"
)

// unavailable reports a call that changed nothing because the cache could not be asked.
func unavailable(op string, cause error) error {
	message := "the cache cannot be reached"
	switch {
	case errors.Is(cause, errUnsuitable):
		message, cause = strings.TrimPrefix(cause.Error(), errUnsuitable.Error()+": "), errUnsuitable
	case refused(cause):
		message = "redis refuses this service: its user name, its password or what this user may do is wrong"
	}
	return device.Wrap(device.CacheUnavailable, fmt.Errorf("cache: %s: %w", op, cause), message)
}

// refused reports whether Redis answered and does not accept who asks, or not what was asked.
func refused(err error) bool {
	redisErr, ok := errors.AsType[*rueidis.RedisError](err)
	if !ok {
		return false
	}
	text := redisErr.Error()
	code, _, _ := strings.Cut(text, " ")
	return code == "WRONGPASS" || code == "NOAUTH" || code == "NOPERM" ||
		strings.Contains(text, "The user executing the script") || // Redis 7.0, of a command inside a script
		strings.Contains(text, "ACL failure in script") // later ones
}

// failure translates the error of a call that writes. Only an error that proves that the script did not run is
// CacheUnavailable or CacheFull; all else is OutcomeUnknown.
func failure(op string, err error) error {
	switch {
	case isFull(err):
		return device.Wrap(device.CacheFull, fmt.Errorf("cache: %s: %w", op, err), "the cache is full")
	case neverRan(err):
		return unavailable(op, err)
	default:
		return device.Wrap(device.OutcomeUnknown, fmt.Errorf("cache: %s: %w", op, err),
			"the connection to the cache was lost after the call was sent")
	}
}

func isFull(err error) bool {
	redisErr, ok := rueidis.IsRedisErr(err)
	return ok && strings.HasPrefix(redisErr.Error(), "OOM ")
}

// neverRan reports whether the error proves that the script did not run.
func neverRan(err error) bool {
	if redisErr, ok := rueidis.IsRedisErr(err); ok {
		// Redis refused it (LOADING, READONLY, CLUSTERDOWN, MASTERDOWN, MISCONF, NOAUTH …), unless the error comes from
		// inside the script, which Redis says: what the script had written stays.
		return !strings.Contains(redisErr.Error(), "script: ")
	}
	var notSent *notSentError
	return errors.As(err, &notSent) || errors.Is(err, errLate) ||
		errors.Is(err, rueidis.ErrClosing) || errors.Is(err, rueidis.ErrNoSlot)
}

// errAnswer says that Redis answered something that no script of ours returns.
var errAnswer = errors.New("redis gave an answer that was not understood")

// notSentError is a failure of a connection that has not carried a command yet. It hides its cause from errors.Is,
// since rueidis replaces an error that is a time-out by its own.
type notSentError struct{ cause error }

func (e *notSentError) Error() string { return "no connection: " + e.cause.Error() }
