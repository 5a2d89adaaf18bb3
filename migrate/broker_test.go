package migrate_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"signaldevice/broker"
	"signaldevice/broker/identity"
	"signaldevice/brokerlink"
	"signaldevice/device"
	"signaldevice/dispatch"
	"signaldevice/migrate"
	"signaldevice/migrate/migratetest"
)

const patience = 10 * time.Second

func startBroker(t *testing.T) *broker.Broker {
	t.Helper()
	b, err := broker.Start(t.Context(), broker.Config{DataDir: t.TempDir(), MQTTAddr: "127.0.0.1:0", GRPCAddr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := b.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return b
}

func dial(t *testing.T, b *broker.Broker, role identity.Role) *brokerlink.Link {
	t.Helper()
	cert, key := b.ClientCertificate(role)
	link, err := brokerlink.Dial(brokerlink.Config{
		Addrs: []string{b.GRPCAddr().String()}, CAFile: b.CAFile(), CertFile: cert, KeyFile: key,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := link.Close(); err != nil {
			t.Error(err)
		}
	})
	return link
}

// planFor reads the export again and plans it for what the broker has now, as each run of the program does.
func planFor(t *testing.T, dir string, link *brokerlink.Link) *migrate.Plan {
	t.Helper()
	x, err := migrate.Read(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	there, err := migrate.Devices(t.Context(), link)
	if err != nil {
		t.Fatal(err)
	}
	return migrate.NewPlan(x, there, time.Now())
}

// A thousand devices, IoT Core's quota, are moved in two runs, and the first one is interrupted. A moved camera then
// connects with the certificate that it had, and gets a command.
func TestMove_ThousandDevicesInterruptedAndResumed(t *testing.T) {
	const total = 1000
	dir := t.TempDir()
	cameras := migratetest.Export(t, dir, total)
	b := startBroker(t)
	operator := dial(t, b, identity.RoleOperator)

	first := planFor(t, dir, operator)
	if len(first.Moves) != total || len(first.Faults)+len(first.Warnings) > 0 {
		t.Fatalf("%d moves, faults %v, warnings %v", len(first.Moves), lines(first.Faults), lines(first.Warnings))
	}
	started := time.Now()
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	got, err := migrate.Run(ctx, operator, first, func(n int) {
		if n == total*2/5 {
			interrupt()
		}
	})
	if !errors.Is(err, context.Canceled) || got.Moved < total*2/5 || got.Moved > total*2/5+20 {
		t.Fatalf("%+v, %v", got, err)
	}

	second := planFor(t, dir, operator)
	if second.Present != got.Moved || len(second.Moves) != total-got.Moved {
		t.Fatalf("after %d: present %d, to move %d", got.Moved, second.Present, len(second.Moves))
	}
	rest, err := migrate.Run(t.Context(), operator, second, nothing)
	if err != nil || rest.Moved != total-got.Moved || len(rest.Faults) > 0 {
		t.Fatalf("%+v, %v", rest, err)
	}
	took := time.Since(started)
	t.Logf("%d devices in %v", total, took)
	if took > time.Minute {
		t.Errorf("it took %v", took)
	}
	if third := planFor(t, dir, operator); third.Present != total || len(third.Moves)+len(third.Faults) > 0 {
		t.Errorf("a third run: present %d, to move %d, faults %v", third.Present, len(third.Moves), lines(third.Faults))
	}
	checkAll(t, operator, cameras)
	checkCommand(t, b, cameras[total/2])
}

// checkAll finds each camera there once, with everything that it had.
func checkAll(t *testing.T, link *brokerlink.Link, cameras []migratetest.Camera) {
	t.Helper()
	all, err := migrate.Devices(t.Context(), link)
	if err != nil || len(all) != len(cameras) {
		t.Fatalf("%d devices, want %d: %v", len(all), len(cameras), err)
	}
	there := map[device.ID]device.Device{}
	for _, d := range all {
		there[d.ID] = d
	}
	for _, c := range cameras {
		d := there[c.ID]
		labels := device.Labels{
			"depot": d.Labels["depot"], "iot-core-registry": migratetest.RegistryName, "iot-core-registry-id": migratetest.Registry,
		}
		if d.Name != c.Name || d.Description != "car "+c.Name || !maps.Equal(d.Labels, labels) || d.Labels["depot"] == "" ||
			len(d.Certificates) != 1 || d.Certificates[0].Fingerprint != identity.Fingerprint(c.Certificate.Certificate[0]) {
			t.Fatalf("%s became %+v", c.ID, d)
		}
	}
}

// checkCommand connects as the camera that knows nothing but the broker's address and CA, and sends it a command.
func checkCommand(t *testing.T, b *broker.Broker, c migratetest.Camera) {
	t.Helper()
	ca, err := os.ReadFile(b.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := paho.NewClient(paho.NewClientOptions().AddBroker("ssl://" + b.MQTTAddr().String()).SetClientID("camera").
		SetTLSConfig(&tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: []tls.Certificate{c.Certificate}}).
		SetAutoReconnect(false).SetConnectTimeout(patience))
	wait(t, client.Connect())
	defer client.Disconnect(0)
	commands := make(chan []byte, 1)
	wait(t, client.Subscribe("$devices/"+string(c.ID)+"/commands", 1, func(_ paho.Client, m paho.Message) { commands <- m.Payload() }))

	api := dial(t, b, identity.RoleService)
	req, _, err := api.Send(t.Context(), dispatch.Send{
		Device: c.ID, Client: "alice", Mailbox: device.MailboxOf("alice"),
		Command: device.Command{Name: "ping", DeliverWithin: patience, ReplyWithin: patience},
		Payload: device.Payload{JSON: json.RawMessage(`{}`)}, Labels: device.Labels{"iot-core-registry": migratetest.RegistryName},
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case payload := <-commands:
		var command struct {
			RequestID device.RequestID `json:"request_id"`
			Command   string           `json:"command"`
		}
		if err := json.Unmarshal(payload, &command); err != nil || command.RequestID != req.ID || command.Command != "ping" {
			t.Errorf("the camera got %s, %v", payload, err)
		}
	case <-time.After(patience):
		t.Error("no command came")
	}
}

func wait(t *testing.T, token paho.Token) {
	t.Helper()
	if !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatalf("camera: not done within %v: %v", patience, token.Error())
	}
}

// Only an operator may bring devices with ids of their own.
func TestMove_NeedsAnOperator(t *testing.T) {
	dir := t.TempDir()
	migratetest.Export(t, dir, 3)
	b := startBroker(t)
	service := dial(t, b, identity.RoleService)
	got, err := migrate.Run(t.Context(), service, planFor(t, dir, service), nothing)
	if !device.Is(err, device.Forbidden) || got.Moved != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// I10: what the broker refuses is told with every fault, the other devices are moved.
func TestMove_RefusedByTheBroker(t *testing.T) {
	dir := t.TempDir()
	migratetest.Export(t, dir, 3)
	b := startBroker(t)
	operator := dial(t, b, identity.RoleOperator)
	plan := planFor(t, dir, operator)
	plan.Moves[1].Name = "two words"
	got, err := migrate.Run(t.Context(), operator, plan, nothing)
	if err != nil || got.Moved != 2 || len(got.Faults) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	wantLine(t, "faults", got.Faults, "device two words (are0camera0000000001): the broker refused it: name may hold only letters, digits, '-' and '_'")
}
