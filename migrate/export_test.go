package migrate_test

import (
	"errors"
	"io/fs"
	"maps"
	"strings"
	"testing"

	"signaldevice/device"
	"signaldevice/migrate"
)

func TestRead_ValidExport(t *testing.T) {
	x := read(t, validExport(t))
	if len(x.Faults)+len(x.Notes) > 0 {
		t.Fatalf("faults %v, notes %v", lines(x.Faults), lines(x.Notes))
	}
	if ids(x) != "are0one are0two" || x.Registries[0].ID != "are0reg" || x.Registries[0].Name != "north" {
		t.Fatalf("%+v", x.Registries)
	}
	d := x.Registries[0].Devices[0]
	if d.Name != "taxi-1" || d.Description != "front" || !maps.Equal(d.Labels, device.Labels{"depot": "a"}) || len(d.Certificates) != 1 ||
		!strings.HasPrefix(d.Certificates[0].PEM, "-----BEGIN CERTIFICATE-----\n") {
		t.Errorf("%+v", d)
	}
}

// Every way in which the vendor's tool, or a person with a text editor, may write the same export.
func TestRead_SameExportInOtherForms(t *testing.T) {
	tests := map[string]func(files){
		"camel case": func(f files) {
			for name, data := range f {
				f[name] = strings.NewReplacer("device_id", "deviceId", "certificate_data", "certificateData",
					"created_at", "createdAt", "registry_id", "registryId", "folder_id", "folderId").Replace(data)
			}
		},
		"the answers of the REST API": func(f files) {
			for name, data := range f {
				field := "certificates"
				switch {
				case name == "registries.json":
					field = "registries"
				case strings.HasPrefix(name, "devices-"):
					field = "devices"
				}
				f[name] = `{"` + field + `":` + data + `,"nextPageToken":""}`
			}
		},
		"unknown fields": func(f files) {
			for name, data := range f {
				f[name] = strings.ReplaceAll(data, `{"id"`, `{"monitoring_data":{"last_auth_ip":"::1"},"log_options":[1,{"x":null}],"id"`)
			}
		},
		"nulls for what is not there": func(f files) {
			f["devices-are0reg.json"] = strings.Replace(f["devices-are0reg.json"], `"name":"taxi-2"`,
				`"name":"taxi-2","description":null,"labels":null,"topic_aliases":null`, 1)
			f["aliases-are0reg.json"] = "null"
		},
		"empty lists of what cannot be moved": func(f files) {
			f["aliases-are0reg.json"], f["registry-certs-are0reg.json"], f["yds-exports-are0reg.json"], f["brokers.json"] = "[]", "[]", "{}", "[]\n"
		},
		"a byte order mark": func(f files) { f["devices-are0reg.json"] = "\uFEFF" + f["devices-are0reg.json"] },
		"line ends of Windows": func(f files) {
			f["devices-are0reg.json"] = strings.ReplaceAll(f["devices-are0reg.json"], "\n", "\r\n")
		},
		"files that are none of ours": func(f files) {
			f["README"], f["device-certs-are0reg/are0two.json.part"] = "x", "["
		},
	}
	for name, edit := range tests {
		t.Run(name, func(t *testing.T) {
			f := validExport(t)
			edit(f)
			x := read(t, f)
			if got := ids(x); got != "are0one are0two" || len(x.Faults)+len(x.Notes) > 0 {
				t.Errorf("devices %q, faults %v, notes %v", got, lines(x.Faults), lines(x.Notes))
			}
			if d := x.Registries[0].Devices[0]; d.Labels["depot"] != "a" || len(d.Certificates) != 1 || d.Certificates[0].PEM == "" {
				t.Errorf("%+v", d)
			}
		})
	}
}

// I10: what is damaged is left out and told in one line; everything else is read.
func TestRead_DamagedExport(t *testing.T) {
	const devices, certs = "devices-are0reg.json", "device-certs-are0reg/are0two.json"
	replace := func(file, old, next string) func(files) {
		return func(f files) {
			if !strings.Contains(f[file], old) {
				panic(old)
			}
			f[file] = strings.Replace(f[file], old, next, 1)
		}
	}
	// A device without a known id leaves its list of certificates behind, which would be a second fault.
	alone := func(edit func(files)) func(files) {
		return func(f files) { edit(f); delete(f, certs) }
	}
	set := func(file, data string) func(files) { return func(f files) { f[file] = data } }
	tests := map[string]struct {
		edit func(files)
		ids  string // what is read
		want string // the fault
	}{
		"no list of devices":             {func(f files) { delete(f, devices) }, "", devices + ": is missing: the devices of the registry north (are0reg) were not saved"},
		"an empty list of devices":       {set(devices, " \n"), "", devices + ": is empty"},
		"a list that is cut off":         {func(f files) { f[devices] = f[devices][:len(f[devices])-9] }, "", devices + ": is cut off: the JSON has no end"},
		"a list with a slip":             {replace(devices, `"name":"taxi-2"`, `name:"taxi-2"`), "", devices + ": is not JSON: line 3"},
		"text after the list":            {func(f files) { f[devices] += "\nERROR: rpc error" }, "", devices + ": is not JSON: line 5"},
		"an error for a list":            {set(devices, `{"code":16,"message":"Unauthenticated"}`), "", devices + ": is not a list of devices"},
		"a number for a list":            {set(devices, `7`), "", devices + ": must be a list"},
		"a number in the answer":         {set(devices, `{"devices":7}`), "", devices + ": must be a list"},
		"one page of several":            {func(f files) { f[devices] = `{"devices":` + f[devices] + `,"next_page_token":"x"}` }, "", devices + ": is only one page of the list"},
		"not UTF-8":                      {replace(devices, "front", "fr\xf6nt"), "", devices + ": is not UTF-8 text"},
		"UTF-16, as PowerShell has":      {set(devices, "\xff\xfe[\x00]\x00"), "", devices + ": is not UTF-8 text"},
		"a text for a device":            {replace(devices, `{"id":"are0two"`, `"x",{"id":"are0two"`), "are0one are0two", devices + ": [1]: must be an object"},
		"null for a device":              {replace(devices, `{"id":"are0two"`, `null,{"id":"are0two"`), "are0one are0two", devices + ": [1]: must be an object"},
		"no id":                          {alone(replace(devices, `"id":"are0two",`, ``)), "are0one", devices + ": [1].id: must be 1 to 50 letters, digits, '-' and '_'"},
		"an id that is a path":           {alone(replace(devices, `"are0two"`, `"../are0two"`)), "are0one", devices + ": [1].id: must be 1 to 50 letters, digits, '-' and '_'"},
		"a number for an id":             {alone(replace(devices, `"are0two"`, `5`)), "are0one", devices + ": [1].id: must be a text"},
		"a number for a name":            {replace(devices, `"taxi-2"`, `5`), "are0one", devices + ": [1].name: must be a text"},
		"a list for labels":              {replace(devices, `{"depot":"a"}`, `["a"]`), "are0two", devices + ": [0].labels: must be an object of texts"},
		"a number for a label":           {replace(devices, `{"depot":"a"}`, `{"depot":1}`), "are0two", devices + ": [0].labels: must be an object of texts"},
		"a text for aliases":             {replace(devices, `"labels"`, `"topic_aliases":"x","labels"`), "are0two", devices + ": [0].topic_aliases: must be an object of texts"},
		"a device twice":                 {alone(replace(devices, `"are0two"`, `"are0one"`)), "are0one", devices + ": [1]: device are0one is there twice, first in devices-are0reg.json: [0]"},
		"another registry's device":      {replace(devices, `"are0two","registry_id":"are0reg"`, `"are0two","registry_id":"are9"`), "are0one", devices + ": [1]: device are0two is of another registry"},
		"no folder of certificates":      {func(f files) { delete(f, certs); delete(f, "device-certs-are0reg/are0one.json") }, "", "device-certs-are0reg: is missing: the certificates of the registry north (are0reg) were not saved"},
		"no list of certificates":        {func(f files) { delete(f, certs) }, "are0one", certs + ": is missing: the certificates of this device were not saved"},
		"empty, since the tool fell":     {set(certs, ""), "are0one", certs + ": is empty"},
		"certificates cut off":           {func(f files) { f[certs] = f[certs][:100] }, "are0one", certs + ": is cut off: the JSON has no end"},
		"a number for a certificate":     {set(certs, `[{"certificate_data":5}]`), "are0one", certs + ": [0].certificate_data: must be a text"},
		"no certificate in the row":      {set(certs, `[{"fingerprint":"df3c"}]`), "are0one", certs + ": [0]: has no certificate_data"},
		"another's certificate":          {replace(certs, `"are0two"`, `"are0one"`), "are0one", certs + ": [0]: is a certificate of another device"},
		"certificates of a stranger":     {set("device-certs-are0reg/are7.json", "[]"), "are0one are0two", "device-certs-are0reg/are7.json: belongs to a device that devices-are0reg.json does not have"},
		"devices of a stranger":          {set("devices-are7.json", "[]"), "are0one are0two", "devices-are7.json: belongs to a registry that registries.json does not have"},
		"a registry twice":               {replace("registries.json", `[{"id"`, `[{"id":"are0reg"},{"id"`), "are0one are0two", "registries.json: [1]: is there twice"},
		"a number for a registry's name": {replace("registries.json", `"north"`, `7`), "", "registries.json: [0].name: must be a text"},
		"a registry without an id":       {replace("registries.json", `[{"id"`, `[{},{"id"`), "are0one are0two", "registries.json: [0].id: must be 1 to 50 letters, digits, '-' and '_'"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := validExport(t)
			tt.edit(f)
			x := read(t, f)
			if got := ids(x); got != tt.ids {
				t.Errorf("read %q, want %q", got, tt.ids)
			}
			if len(x.Faults) != 1 {
				t.Errorf("%d faults, want 1", len(x.Faults))
			}
			wantLine(t, "faults", x.Faults, tt.want)
		})
	}
}

func TestRead_NoExport(t *testing.T) {
	tests := map[string]struct {
		edit func(files)
		only []string
		want string
	}{
		"no list of registries":  {func(f files) { delete(f, "registries.json") }, nil, "registries.json: is missing"},
		"an empty one":           {func(f files) { f["registries.json"] = "" }, nil, "registries.json: is empty"},
		"one that is cut off":    {func(f files) { f["registries.json"] = "[{" }, nil, "registries.json: is cut off"},
		"a registry that is not": {func(files) {}, []string{"are0reg", "are9"}, `no registry "are9", only: are0reg`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := validExport(t)
			tt.edit(f)
			_, err := migrate.Read(f.fs(), tt.only...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// What has no place in the broker is told, and does not stop a device from being moved.
func TestRead_Notes(t *testing.T) {
	tests := map[string]struct {
		edit func(files)
		want string
	}{
		"certificates of the registry": {func(f files) {
			f["registry-certs-are0reg.json"] = `[{"registry_id":"are0reg","certificate_data":"x"},{}]`
		}, "registry north (are0reg): has certificates of its own (2): a back end connects by gRPC, with a certificate of signal-device broker cert"},
		"a damaged list of them": {func(f files) { f["registry-certs-are0reg.json"] = `[` },
			"registry-certs-are0reg.json: is cut off: the JSON has no end; nothing of it would be moved"},
		"exports to data streams": {func(f files) { f["yds-exports-are0reg.json"] = `[{"id":"x"}]` },
			"registry north (are0reg): has exports to data streams (1): replies are read through the API"},
		"brokers": {func(f files) { f["brokers.json"] = `[{"id":"x"}]` },
			"brokers.json: has brokers of IoT Core (1): there is nothing like them here"},
		"labels of the registry": {func(f files) {
			f["registries.json"] = strings.Replace(f["registries.json"], `"status"`, `"labels":{"a":"b"},"status"`, 1)
		}, "registry north (are0reg): has labels of its own: there is one registry here, without labels"},
		"aliases in the device": {func(f files) {
			f["devices-are0reg.json"] = strings.Replace(f["devices-are0reg.json"], `"labels"`, `"topic_aliases":{"my":"$devices/are0one/events"},"labels"`, 1)
		}, "device taxi-1 (are0one): has topic aliases, and must name topics in full: my for $devices/are0one/events"},
		"aliases in their list": {func(f files) {
			f["aliases-are0reg.json"] = `[{"device_id":"are0two","topic_prefix":"$devices/are0two/commands","alias":"do"}]`
		}, "device taxi-2 (are0two): has topic aliases, and must name topics in full: do for $devices/are0two/commands"},
		"a damaged list of aliases": {func(f files) { f["aliases-are0reg.json"] = `[{"device_id":7}]` },
			"aliases-are0reg.json: [0].device_id: must be a text: perhaps not every topic alias is told here"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := validExport(t)
			tt.edit(f)
			x := read(t, f)
			if ids(x) != "are0one are0two" || len(x.Faults) > 0 || len(x.Notes) != 1 {
				t.Errorf("devices %q, faults %v, %d notes", ids(x), lines(x.Faults), len(x.Notes))
			}
			wantLine(t, "notes", x.Notes, tt.want)
		})
	}
}

func TestRead_ListThatIsAsLongAsTheToolPrintsThem(t *testing.T) {
	for _, n := range []int{999, 1000, 1001} {
		f := files{"registries.json": `[{"id":"r"}]`}
		var rows []string
		for i := range n {
			id := "d" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + strings.Repeat("y", i/182)
			rows = append(rows, `{"id":"`+id+`"}`)
			f["device-certs-r/"+id+".json"] = "[]"
		}
		f["devices-r.json"] = "[" + strings.Join(rows, ",") + "]"
		x := read(t, f)
		if noted := len(x.Notes) == 1; noted != (n == 1000) {
			t.Errorf("%d devices: notes %v", n, lines(x.Notes))
		}
	}
}

// The devices of a disabled registry could not connect: they are moved only when somebody says so.
func TestRead_DisabledRegistry(t *testing.T) {
	f := validExport(t)
	f["registries.json"] = `[{"id":"are0reg","name":"north","status":"DISABLED"},{"id":"are1reg","status":"ACTIVE"}]`
	f["devices-are1reg.json"] = `[{"id":"are1one"}]`
	f["device-certs-are1reg/are1one.json"] = "[]"
	x := read(t, f)
	if ids(x) != "are1one" {
		t.Errorf("read %q", ids(x))
	}
	wantLine(t, "notes", x.Notes, "registry north (are0reg): has the status DISABLED: its devices could not connect; --registry are0reg moves them all the same")
	if x := read(t, f, "are0reg"); ids(x) != "are0one are0two" || len(x.Faults) > 0 {
		t.Errorf("by its id: %q, %v", ids(x), lines(x.Faults))
	}
}

// A file that cannot be read is told as such, not taken for one that is missing.
func TestRead_UnreadableFile(t *testing.T) {
	x, err := migrate.Read(broken{validExport(t).fs()})
	if err != nil {
		t.Fatal(err)
	}
	wantLine(t, "faults", x.Faults, "device-certs-are0reg/are0two.json: cannot be opened: permission denied")
	if ids(x) != "are0one" {
		t.Errorf("read %q", ids(x))
	}
}

type broken struct{ fs.FS }

func (b broken) Open(name string) (fs.File, error) {
	if strings.HasSuffix(name, "are0two.json") {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("permission denied")}
	}
	return b.FS.Open(name)
}
