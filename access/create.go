package access

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"signaldevice/catalogue/configfile"
)

// TokenPrefix begins every token, so that people and secret scanners know one when they see it.
const TokenPrefix = "sdt_"

// tokenBytes is the length of a token's random part.
const tokenBytes = 32

// tokensHead begins a new tokens file.
const tokensHead = `# Bearer tokens, one a line, as SHA-256 hashes: a token itself is shown once, when it is made.
# Take a line out to revoke its token. The file is read again within two seconds.
`

// CreateToken makes a token for a client in a role, adds its hash to the tokens file and returns the token, which
// nothing else knows. The token is valid for the given time, for ever where it is 0. A missing file is made, with mode
// 0600; the folder must be there.
//
// The file is replaced as a whole and on disk before CreateToken returns: a reader sees the old or the new one, and
// several processes at once lose none of each other's tokens.
func CreateToken(path, client, role string, validFor time.Duration) (string, error) {
	if err := errors.Join(checkClient(client), checkRoleName(role)); err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	if validFor < 0 {
		return "", errors.New("token: the time it is valid for must not be negative")
	}
	secret := make([]byte, tokenBytes)
	rand.Read(secret) // never fails: crypto/rand ends the program instead
	token := TokenPrefix + base64.RawURLEncoding.EncodeToString(secret)
	if err := appendToken(path, tokenLine(client, role, token, time.Now(), validFor)); err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	return token, nil
}

// tokenLine is one item of the list, on a line of its own.
func tokenLine(client, role, token string, now time.Time, validFor time.Duration) string {
	quoted, err := json.Marshal(client)
	if err != nil {
		panic("access: a name cannot be quoted: " + err.Error()) // json.Marshal takes every string
	}
	var b strings.Builder
	fmt.Fprintf(&b, "- {client: %s, role: %q, created: %s", quoted, role, now.UTC().Format(time.RFC3339))
	if validFor > 0 {
		fmt.Fprintf(&b, ", expires: %s", now.Add(validFor).UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(&b, ", sha256: %q}\n", fmt.Sprintf("%x", sha256.Sum256([]byte(token))))
	return b.String()
}

// appendToken adds the line under a lock, and only to a file that is good before and after.
func appendToken(path, line string) error {
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved // so that the file is replaced and not the link to it
	}
	unlock, err := lock(path)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		old, err = []byte(tokensHead), nil
	}
	if err != nil {
		return err
	}
	before, err := parseTokens(old)
	if err != nil {
		return fmt.Errorf("%s is bad, nothing was added: %w", path, err)
	}
	if len(old) > 0 && !bytes.HasSuffix(old, []byte("\n")) {
		old = append(old, '\n')
	}
	data := append(old, line...)
	if after, err := parseTokens(data); err != nil || len(*after) != len(*before)+1 {
		return fmt.Errorf("%s is no list with one token a line, nothing was added", path)
	}
	return replaceFile(path, data)
}

// replaceFile puts data in the place of a file, on disk, for its owner alone to read.
func replaceFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	temp, err := os.CreateTemp(dir, ".tokens-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp.Name()) // the error that matters is on its way
		}
	}()
	_, err = temp.Write(data)
	if err == nil {
		err = keepOwner(temp, path)
	}
	if err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return err
	}
	if err = os.Rename(temp.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a rename survive a crash.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// decodeTokens reads the list of a tokens file, whose items are nodes so that each fault finds its line.
func decodeTokens(data []byte) ([]yaml.Node, error) {
	if len(bytes.TrimSpace(data)) == 0 || onlyComments(data) {
		return nil, nil
	}
	var entries []yaml.Node
	if err := configfile.Decode(data, maxTokensBytes, &entries); err != nil {
		return nil, err
	}
	return entries, nil
}

func onlyComments(data []byte) bool {
	for line := range bytes.Lines(data) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}
