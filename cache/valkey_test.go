package cache_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"signaldevice/testserver/child"
)

// Valkey is as good as Redis. It is found on the PATH, or where `make setup` unpacks it. Some systems have no package of
// it: then this is skipped, and says so, but in CI it fails.
func TestValkey(t *testing.T) {
	path, err := exec.LookPath("valkey-server")
	if err != nil {
		path, err = exec.LookPath("../bin/valkey/usr/bin/valkey-server")
	}
	if err != nil && os.Getenv("CI") != "" {
		t.Fatal("there is no valkey-server here: see what `make setup` says")
	}
	if err != nil {
		t.Skip("there is no valkey-server here: not tested with Valkey")
	}
	if path, err = filepath.Abs(path); err != nil {
		t.Fatal(err)
	}
	t.Setenv(child.RedisPathVariable, path)
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"keeps the contract", TestRedis_KeepsTheContract},
		{"agrees with the model", TestRedis_AgreesWithTheModel},
		{"keeps the contract in a cluster", TestRedis_KeepsTheContractInACluster},
		{"a user of its own", TestRedis_KeepsTheContractForAUserOfItsOwn},
		{"refuses a wrong user", TestOpenRedis_RefusedByRedis},
		{"capacity", TestRedis_Capacity},
		{"keeps records over a kill", TestRedis_KeepsRecordsAndMarksOverAKill},
		{"a replica that is gone", TestRedis_ReplicaThatIsGone},
		{"a Sentinel fails over", TestRedis_SentinelFailsOver},
	} {
		t.Run(test.name, test.run)
	}
}
