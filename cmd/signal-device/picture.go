package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// picture is the result of a command that answers with an image.
type picture struct {
	ContentType string `json:"content_type"`
	Data        []byte `json:"data"` // base64 in JSON
}

// String says what it is.
func (p picture) String() string {
	return fmt.Sprintf("%s, %d bytes", printable(p.ContentType), len(p.Data))
}

// pictureOf reads a result that holds an image.
func pictureOf(result json.RawMessage) (picture, bool) {
	var p picture
	err := json.Unmarshal(result, &p)
	return p, err == nil && strings.HasPrefix(p.ContentType, "image/") && len(p.Data) > 0
}

// picture returns the image of the replies, the last one where there are several.
func (s sentCommand) picture() (picture, error) {
	for _, reply := range slices.Backward(s.replies) {
		if p, ok := pictureOf(reply.Result); ok {
			return p, nil
		}
	}
	return picture{}, errors.New("the reply holds no picture")
}

// write makes the file, or writes over it.
func (p picture) write(path string) error {
	if err := os.WriteFile(path, p.Data, 0o644); err != nil {
		return fmt.Errorf("the picture was not written: %w", err)
	}
	return nil
}
