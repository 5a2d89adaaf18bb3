package camera

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// decode reads a command's arguments into a value that holds the defaults. An argument that the camera does not know is
// refused: to pass over it would look like success.
func decode(args json.RawMessage, into any) error {
	args = bytes.TrimSpace(args)
	if len(args) == 0 {
		return nil
	}
	if args[0] != '{' {
		return errors.New("the arguments must be an object")
	}
	d := json.NewDecoder(bytes.NewReader(args))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

func check(holds bool, fault string) error {
	if holds {
		return nil
	}
	return errors.New(fault)
}

func inRange(name string, v, low, high int) error {
	return check(v >= low && v <= high, fmt.Sprintf("%s must be from %d to %d", name, low, high))
}

func oneOf(name, v string, allowed ...string) error {
	return check(slices.Contains(allowed, v), fmt.Sprintf("%s must be one of %s", name, strings.Join(allowed, ", ")))
}

// subset checks a list without repetition; an empty one means all.
func subset(name string, list, allowed []string) ([]string, error) {
	if len(list) == 0 {
		return allowed, nil
	}
	seen := map[string]bool{}
	for _, v := range list {
		if err := oneOf(name, v, allowed...); err != nil {
			return nil, err
		}
		if seen[v] {
			return nil, fmt.Errorf("%s must not repeat %s", name, v)
		}
		seen[v] = true
	}
	return list, nil
}
