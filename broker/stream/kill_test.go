package stream_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"signaldevice/broker/stream"
)

// childDir, when set, makes the test binary a store that is filled until it is killed.
const childDir = "STREAM_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stderr, appendForEver(context.Background(), dir))
		os.Exit(1) // it only ends by itself when it fails
	}
	goleak.VerifyTestMain(m)
}

// appendForEver appends from several writers, alone and in batches, and prints the subject of each message that it was
// told to be durable.
func appendForEver(ctx context.Context, dir string) error {
	e, err := stream.Open(ctx, stream.Config{Dir: dir})
	if err != nil {
		return err
	}
	if _, err := e.Ensure(ctx, jetstream.StreamConfig{
		Name: name, Subjects: []string{"t.>"}, Storage: jetstream.FileStorage, AllowDirect: true, AllowAtomicPublish: true,
	}); err != nil {
		return err
	}
	a := e.NewAppender()
	failed := make(chan error, 1)
	for w := range 4 {
		go func() {
			window := make(chan struct{}, 1+10*w)
			for i := 0; ; i++ {
				window <- struct{}{}
				subject := fmt.Sprint("t.", w, ".", i)
				if err := a.TryAppend(&stream.Append{Subject: subject, Data: make([]byte, 200), Key: fmt.Sprint(w), Done: func(_ uint64, err error) {
					if err != nil {
						failed <- err
					}
					fmt.Println(subject)
					<-window
				}}); err != nil {
					failed <- err
				}
			}
		}()
	}
	return <-failed
}

// I1, I9: what was told to be durable is there after kill -9, in the order of its writer.
func TestAppender_KilledAtAnyMoment(t *testing.T) {
	for _, lines := range []int{1, 200, 3000} {
		t.Run(fmt.Sprint("after ", lines), func(t *testing.T) {
			dir := t.TempDir()
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			child := exec.CommandContext(t.Context(), exe)
			child.Env, child.Stderr = append(os.Environ(), childDir+"="+dir), os.Stderr
			out, err := child.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			told := map[string]bool{}
			for text := bufio.NewScanner(out); text.Scan(); { // what it still printed after its end counts
				if told[text.Text()] = true; len(told) == lines {
					_ = child.Process.Kill()
				}
			}
			_ = child.Wait() // killed
			if len(told) < lines {
				t.Fatalf("the child was told of %d appends", len(told))
			}
			e := open(t, dir)
			defer e.Close()
			next := map[string]int{}
			for _, s := range subjects(t, e) {
				writer := strings.Split(s, ".")[1]
				if s != fmt.Sprint("t.", writer, ".", next[writer]) {
					t.Fatalf("%s is at place %d of its writer", s, next[writer])
				}
				next[writer]++
				delete(told, s)
			}
			for s := range told {
				t.Errorf("%s is lost", s)
			}
		})
	}
}
