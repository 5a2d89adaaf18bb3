package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

type devicesCommand struct {
	List devicesListCommand `cmd:"" default:"withargs" help:"List the devices that you may see, with their presence (what devices alone does)."`
	Show devicesShowCommand `cmd:"" help:"Show one device."`
}

type devicesListCommand struct {
	clientFlags
	Label   map[string]string `help:"Only devices with this label; may be repeated, all must match." placeholder:"KEY=VALUE"`
	Name    string            `help:"Only devices with this in their name." placeholder:"PART"`
	Online  bool              `help:"Only devices that can receive a command now." xor:"presence"`
	Offline bool              `help:"Only devices that cannot." xor:"presence"`
	JSON    bool              `name:"json" help:"Print one JSON object a line, a device each."`
}

// Help shows examples.
func (devicesListCommand) Help() string {
	return `All that match are listed, however many. Times are UTC. --json prints one device a line, as the API describes it.

Examples:
  export SIGNAL_DEVICE_TOKEN=...
  signal-device devices
  signal-device devices --label fleet=north --offline
  signal-device devices --json | jq -r .id`
}

// Run prints the list.
func (c *devicesListCommand) Run(ctx context.Context, env *environment) error {
	api, err := c.connect(env)
	if err != nil {
		return err
	}
	query := labelQuery(c.Label)
	if c.Name != "" {
		query.Set("name", c.Name)
	}
	if c.Online || c.Offline {
		query.Set("online", strconv.FormatBool(c.Online))
	}
	items := api.list(ctx, "/v1/devices", query, 0)
	if c.JSON {
		return printLines(env.out, items)
	}
	return printTable(env.out, []string{"NAME", "ID", "ONLINE", "SINCE", "LAST SEEN", "LABELS"}, items, deviceInfo.row)
}

type devicesShowCommand struct {
	clientFlags
	ID   string `arg:"" help:"Id of the device."`
	JSON bool   `name:"json" help:"Print one JSON document."`
}

// Help shows an example.
func (devicesShowCommand) Help() string {
	return `Times are UTC. --json prints the device as the API describes it.

Example:
  export SIGNAL_DEVICE_TOKEN=...
  signal-device devices show d4f2c8a1b7e34590`
}

// Run prints the device.
func (c *devicesShowCommand) Run(ctx context.Context, env *environment) error {
	api, err := c.connect(env)
	if err != nil {
		return err
	}
	var answer json.RawMessage
	if err := api.get(ctx, "/v1/devices/"+url.PathEscape(c.ID), &answer); err != nil {
		return err
	}
	return printDocument(env.out, answer, c.JSON, deviceInfo.print)
}

// deviceInfo is what people are shown of a device.
type deviceInfo struct {
	ID           string            `json:"id"`
	Name         string            `json:"name"`
	Description  string            `json:"description"`
	Labels       map[string]string `json:"labels"`
	Online       bool              `json:"online"`
	Since        *time.Time        `json:"since"`
	LastSeen     *time.Time        `json:"last_seen"`
	CreatedAt    *time.Time        `json:"created_at"`
	Certificates []struct {
		Fingerprint string     `json:"fingerprint"`
		NotAfter    *time.Time `json:"not_after"`
	} `json:"certificates"`
}

func (d deviceInfo) row() []string {
	return []string{d.Name, d.ID, yesNo(d.Online), formatTime(d.Since), formatTime(d.LastSeen), formatLabels(d.Labels)}
}

func (d deviceInfo) print(w io.Writer) error {
	rows := [][]string{
		{"Name", d.Name},
		{"Id", d.ID},
		{"Description", d.Description},
		{"Labels", formatLabels(d.Labels)},
		{"Online", yesNo(d.Online)},
		{"Since", formatTime(d.Since)},
		{"Last seen", formatTime(d.LastSeen)},
		{"Registered", formatTime(d.CreatedAt)},
	}
	for _, c := range d.Certificates {
		rows = append(rows, []string{"Certificate", fmt.Sprintf("%s until %s", c.Fingerprint, formatTime(c.NotAfter))})
	}
	return writeRows(w, rows)
}

// labelQuery is the filter of the list of devices for labels that all must match.
func labelQuery(labels map[string]string) url.Values {
	query := url.Values{}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		query.Add("label", key+"="+labels[key])
	}
	return query
}

func formatLabels(labels map[string]string) string {
	pairs := make([]string, 0, len(labels))
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, key+"="+labels[key])
	}
	return strings.Join(pairs, ",")
}
