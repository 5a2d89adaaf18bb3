package cache_test

import (
	"os/exec"
	"testing"

	"signaldevice/testserver/child"
)

// Valkey is as good as Redis. Few systems have a package of it: this is skipped, and says so, where there is none.
func TestValkey(t *testing.T) {
	path, err := exec.LookPath("valkey-server")
	if err != nil {
		t.Skip("no valkey-server on the PATH: not tested with Valkey")
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
