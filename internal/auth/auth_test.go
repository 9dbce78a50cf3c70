package auth

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func TestToken(t *testing.T) {
	seen := map[string]bool{}
	used := map[rune]bool{}
	for range 200 {
		token := NewToken()
		if err := CheckToken(token); err != nil || len(token) != 40 || seen[token] {
			t.Fatalf("NewToken = %q: %v", token, err)
		}
		seen[token] = true
		for _, c := range token[4:34] {
			used[c] = true
		}
		if !IsToken(token, HashToken(token)) || IsToken(NewToken(), HashToken(token)) {
			t.Errorf("a token is not known by its hash, or another one is")
		}
	}
	if len(used) != 62 {
		t.Errorf("6000 random characters are of %d kinds, want 62", len(used))
	}
	// The checksum as computed by Python: zlib.crc32 in base 62.
	const zeros = "pst_0000000000000000000000000000001uhv1w"
	if err := CheckToken(zeros); err != nil {
		t.Errorf("CheckToken(%s) = %v", zeros, err)
	}
	for _, bad := range []string{
		"", "pst_", zeros + "0", zeros[:39], "ghp_" + zeros[4:], strings.ToUpper(zeros), zeros[:39] + "x",
		"pst_1000000000000000000000000000001uhv1w", "pst_-000000000000000000000000000001uhv1w", " " + zeros,
	} {
		if err := CheckToken(bad); !errors.Is(err, ErrToken) {
			t.Errorf("CheckToken(%q) = %v, want ErrToken", bad, err)
		}
	}
	if IsToken(zeros, nil) || IsToken("", nil) || IsToken(zeros, HashToken(zeros)[:31]) {
		t.Error("a token is that of a hash of another length")
	}
}

func TestScopes(t *testing.T) {
	s, err := ParseScopes([]string{"workflow", "repo", "write:org", "repo"})
	if err != nil {
		t.Fatal(err)
	}
	for scope, want := range map[string]bool{
		"repo": true, "public_repo": true, "repo:status": true, "workflow": true, "read:org": true, "write:org": true,
		"admin:org": false, "delete_repo": false, "site_admin": false, "": false, "everything": false,
	} {
		if got := s.Allows(scope); got != want {
			t.Errorf("Allows(%q) = %v, want %v", scope, got, want)
		}
	}
	if got, want := s.String(), "repo, workflow, write:org"; got != want {
		t.Errorf("String = %q, want %q", got, want)
	}
	if (Scopes{}).Allows("repo") || (Scopes{}).Allows("") || (Scopes{}).String() != "" {
		t.Error("no scopes allow something")
	}
	if _, err := ParseScopes([]string{"repo", "everything"}); err == nil || !strings.Contains(err.Error(), `no scope "everything"`) {
		t.Errorf("an unknown scope: %v", err)
	}
	for scope, above := range includedIn {
		for steps := 0; above != ""; above = includedIn[above] {
			if steps++; steps > len(includedIn) {
				t.Fatalf("%s is included in itself", scope)
			}
			if _, ok := includedIn[above]; !ok {
				t.Errorf("%s is included in %s, which is not known", scope, above)
			}
		}
	}
}

func TestRoles(t *testing.T) {
	order := []Role{Read, Write, Maintain, Admin}
	for i, have := range order {
		for j, need := range order {
			if got, want := have.Allows(need), i >= j; got != want {
				t.Errorf("%s.Allows(%s) = %v, want %v", have, need, got, want)
			}
		}
		for _, none := range []Role{NoRole, "owner", "READ"} {
			if none.Valid() || none.Allows(have) || have.Allows(none) || none.Allows(none) {
				t.Errorf("%q counts as a role beside %s", none, have)
			}
		}
	}
}

func TestPermissions(t *testing.T) {
	asked := map[string]string{"contents": "write", "issues": "read", "models": "write", "id-token": "write", "everything": "write", "checks": "none", "pages": "admin"}
	for _, c := range []struct {
		name  string
		given Permissions
		want  map[string]string
	}{
		{"asked for", ParsePermissions(asked, true), map[string]string{"contents": "write", "issues": "read", "models": "read", "id-token": "write", "metadata": "read"}},
		{"from a fork", ParsePermissions(asked, true).ForFork(), map[string]string{"contents": "read", "issues": "read", "models": "read", "metadata": "read"}},
		{"none", ParsePermissions(map[string]string{}, true), map[string]string{"metadata": "read"}},
		{"the restricted default", ParsePermissions(nil, false), map[string]string{"contents": "read", "packages": "read", "metadata": "read"}},
		{"the zero value", Permissions{}, map[string]string{"metadata": "read"}},
	} {
		if got := c.given.Levels(); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		for name := range grantable {
			want := c.want[name]
			if c.given.Allows(name, "read") != (want != "") || c.given.Allows(name, "write") != (want == "write") {
				t.Errorf("%s: Allows of %s does not go with %q", c.name, name, want)
			}
		}
		for _, level := range []string{"", "none", "admin"} {
			if c.given.Allows("contents", level) {
				t.Errorf("%s: Allows(contents, %q)", c.name, level)
			}
		}
		if !c.given.Allows("metadata", "read") || c.given.Allows("metadata", "write") || c.given.Allows("everything", "read") {
			t.Errorf("%s: metadata, or what does not exist", c.name)
		}
	}
	all := ParsePermissions(nil, true)
	if !all.Allows("contents", "write") || !all.Allows("models", "read") || all.Allows("models", "write") || all.Allows("id-token", "write") {
		t.Errorf("the permissive default is %v", all.Levels())
	}
}

const testKeys = `{"keys":[{"id":"test","created":"2026-01-02T12:00:00Z","secret":"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="}]}`

func keys(t testing.TB) *Keyring {
	t.Helper()
	k, err := ParseKeyring([]byte(testKeys))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func decode(t testing.TB, text string) []byte {
	t.Helper()
	p, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSeal(t *testing.T) {
	k := keys(t)
	for _, value := range []string{"", "x", strings.Repeat("long ", 10_000)} {
		sealed := k.Seal([]byte(value), "repository/1", "TOKEN")
		got, err := k.Open(sealed, "repository/1", "TOKEN")
		if err != nil || string(got) != value {
			t.Errorf("Open = %.20q, %v, want %.20q", got, err, value)
		}
		if again := k.Seal([]byte(value), "repository/1", "TOKEN"); string(again) == string(sealed) {
			t.Error("two seals of one value are the same")
		}
		for _, other := range [][2]string{{"repository/2", "TOKEN"}, {"repository/1", "TOKEN2"}, {"repository/1T", "OKEN"}, {"", "repository/1TOKEN"}} {
			if _, err := k.Open(sealed, other[0], other[1]); !errors.Is(err, ErrSealed) {
				t.Errorf("Open as %q = %v, want ErrSealed", other, err)
			}
		}
	}
	sealed := k.Seal([]byte("value"), "s", "n")
	for i := range sealed {
		changed := append([]byte{}, sealed...)
		changed[i] ^= 1
		if _, err := k.Open(changed, "s", "n"); !errors.Is(err, ErrSealed) && !errors.Is(err, ErrNoKey) {
			t.Errorf("with byte %d changed: %v", i, err)
		}
		if _, err := k.Open(sealed[:i], "s", "n"); !errors.Is(err, ErrSealed) {
			t.Errorf("cut at byte %d: %v", i, err)
		}
	}
}

// stored is a value as an early build has sealed it. It opens for ever.
const stored = "AQR0ZXN0ouPKhsd4XbVBwRTJPdSa1onop4zayXU4/dS5hMWIE5sr+WAwRR6o8ZJ2xc+gaViqt+f9T/n8ll3j1YFrV/woFzYI9pIs5cnNPWK7IAOs8mnSI9ij+auihuJDtyJ6gS4DiCN4uUg23edx4Gs/qnO0VR7cu6ub05FCqQ=="

func TestStoredSealOpens(t *testing.T) {
	if got, err := keys(t).Open(decode(t, stored), "repository/7/environment/production", "TOKEN"); err != nil || string(got) != "s3cr3t é" {
		t.Errorf("Open = %q, %v", got, err)
	}
}

func TestRotation(t *testing.T) {
	first := keys(t)
	sealed := first.Seal([]byte("value"), "s", "n")
	second := first.Rotate(noon)
	if second.Current() == "test" || len(first.Keys()) != 1 || len(second.Keys()) != 2 {
		t.Fatalf("after a rotation: %v and %v", first.Keys(), second.Keys())
	}
	again, err := second.Reseal(sealed, "s", "n")
	if err != nil {
		t.Fatal(err)
	}
	if id, err := SealedBy(again); err != nil || id != second.Current() {
		t.Errorf("SealedBy = %q, %v, want the new key", id, err)
	}
	if _, err := second.Reseal(sealed, "s", "other"); !errors.Is(err, ErrSealed) {
		t.Errorf("Reseal of what does not open = %v", err)
	}
	third, err := second.Without("test")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := third.Open(again, "s", "n"); err != nil || string(got) != "value" {
		t.Errorf("Open = %q, %v", got, err)
	}
	if _, err := third.Open(sealed, "s", "n"); !errors.Is(err, ErrNoKey) {
		t.Errorf("Open without the key = %v, want ErrNoKey", err)
	}
	if _, err := first.Open(again, "s", "n"); !errors.Is(err, ErrNoKey) {
		t.Errorf("Open with only the old key = %v, want ErrNoKey", err)
	}
	if _, err := third.Without(third.Current()); err == nil {
		t.Error("the key in use was taken out")
	}
	if _, err := third.Without("test"); !errors.Is(err, ErrNoKey) {
		t.Errorf("taking out a key that is not there = %v", err)
	}
}

// The boxes were made by the libraries that clients use, for the public key of testKeys: libsodium-wrappers 0.8.4 from npm
// and PyNaCl 1.6.2 from PyPI.
func TestBoxesOfOthersOpen(t *testing.T) {
	k := keys(t).Rotate(noon) // an older key still opens
	for _, c := range []struct{ sealed, want string }{
		{"BRrXY5NnE1rrCNYTeRrKhJnPVYeQjjkb4WUPSA2Wdks0brnG1ElQU9ZZnOuFL6xfV5V35qtMAgiTkZaTzcpZil6kM3An1PoAfB1zGw==", "from libsodium-wrappers: é\n"},
		{"GJg29ab5F8vGP/8kDUVWXWbWyZUBW9LFoztXb8Pol1EGXYgoQnWKXJnQwOQh3QJA", ""},
		{"s291uu3em1ah2VGj8miJmUdzUfYk6vqkKvVaLZ6nkxkWmY+M/msZPlVUetjnDcvveyjN+T/EldY66GQ=", "from PyNaCl"},
	} {
		box := decode(t, c.sealed)
		if got, err := k.OpenBox("test", box); err != nil || string(got) != c.want {
			t.Errorf("OpenBox = %q, %v, want %q", got, err, c.want)
		}
		if _, err := k.OpenBox(k.Current(), box); !errors.Is(err, ErrSealed) {
			t.Errorf("OpenBox with another key = %v, want ErrSealed", err)
		}
		box[len(box)-1] ^= 1
		if _, err := k.OpenBox("test", box); !errors.Is(err, ErrSealed) {
			t.Errorf("OpenBox of a changed box = %v, want ErrSealed", err)
		}
	}
	id, public := keys(t).PublicKey()
	if got := base64.StdEncoding.EncodeToString(public[:]); id != "test" || got != "a/rbK4Ov/Wg0xRby3jaMfZRFE5o704C1td6I0t2Bs0g=" {
		t.Errorf("PublicKey = %s, %s", id, got)
	}
	for _, bad := range [][]byte{nil, make([]byte, 47), make([]byte, 48), make([]byte, 1000)} {
		if _, err := k.OpenBox("test", bad); !errors.Is(err, ErrSealed) {
			t.Errorf("OpenBox of %d zeros = %v, want ErrSealed", len(bad), err)
		}
	}
	if _, err := k.OpenBox("none", nil); !errors.Is(err, ErrNoKey) {
		t.Errorf("OpenBox with no key = %v, want ErrNoKey", err)
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	if _, err := ReadKeyring(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadKeyring of no file = %v, want fs.ErrNotExist", err)
	}
	k := NewKeyring(noon)
	sealed := k.Seal([]byte("value"), "s", "n")
	for range 2 {
		if err := WriteKeyring(path, k); err != nil {
			t.Fatal(err)
		}
		k = k.Rotate(noon.Add(time.Hour))
	}
	read, err := ReadKeyring(path)
	if err != nil || !reflect.DeepEqual(read.Keys(), k.Keys()[:2]) {
		t.Fatalf("ReadKeyring = %v, %v", read.Keys(), err)
	}
	if got, err := read.Open(sealed, "s", "n"); err != nil || string(got) != "value" {
		t.Errorf("Open with the keys that were read = %q, %v", got, err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("beside the key file there is %v, %v", left, err)
	}
	for mode, want := range map[fs.FileMode]bool{0o600: true, 0o400: true, 0o440: true, 0o640: true, 0o660: false, 0o604: false, 0o644: false, 0o602: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKeyring(path); (err == nil) != want {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if _, err := ReadKeyring(filepath.Dir(path)); err == nil {
		t.Error("a directory was read as a key file")
	}
	if err := WriteKeyring(filepath.Join(path, "below"), k); err == nil {
		t.Error("a file below a file was written")
	}
}

func TestBadKeyFiles(t *testing.T) {
	entry := func(id, created, secret string) string {
		return fmt.Sprintf(`{"keys":[{"id":%q,"created":%q,"secret":%q}]}`, id, created, secret)
	}
	const created, secret = "2026-01-02T12:00:00Z", "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
	for text, want := range map[string]string{
		"":                             "it is not JSON of the form",
		"s3cr3t":                       "it is not JSON of the form",
		`{"keys":[]}`:                  "it has 0 keys",
		`{"s3cr3t":1}`:                 "it is not JSON of the form",
		testKeys + "s3cr3t":            "something follows the keys",
		entry("s3cr3t/", "", ""):       "key 1: its id is not",
		entry("a", "s3cr3t", secret):   "key 1: created is not a time",
		entry("a", created, "s3cr3t"):  "key 1: secret is not the base64 of 32 bytes",
		entry("a", created, "s3cr3t!"): "key 1: secret is not the base64 of 32 bytes",
		strings.Replace(testKeys, `]}`, `,`+testKeys[9:], 1): "key 2: its id is that of another",
		strings.Repeat(" ", maxKeyFile) + testKeys:           "it has more than",
	} {
		_, err := ParseKeyring([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%.60q: %v, want %q and nothing of the file", text, err, want)
		}
	}
}

func TestKeysAreNotPrinted(t *testing.T) {
	k := keys(t)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		for _, v := range []any{k, *k, struct{ K *Keyring }{k}, struct{ K Keyring }{*k}} {
			text := strings.ToLower(fmt.Sprintf(format, v))
			if strings.Contains(text, "1 2 3 4 5") || strings.Contains(text, "0x1, 0x2") || strings.Contains(text, "010203") || strings.Contains(text, "aqidba") {
				t.Errorf("%s prints the key: %s", format, text)
			}
		}
	}
}

func FuzzOpen(f *testing.F) {
	k, sealed := keys(f), decode(f, stored)
	for _, seed := range [][]byte{nil, {1}, {1, 4}, sealed, sealed[:len(sealed)-1]} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if string(text) == string(sealed) {
			return
		}
		if got, err := k.Open(text, "repository/7/environment/production", "TOKEN"); err == nil {
			t.Errorf("%x opens to %q", text, got)
		}
		SealedBy(text)
		if got, err := k.OpenBox("test", text); err == nil {
			t.Errorf("box %x opens to %q", text, got)
		}
	})
}

func FuzzParseKeyring(f *testing.F) {
	for _, seed := range []string{testKeys, "{}", `{"keys":[{}]}`, `{"keys":null}`, "["} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParseKeyring(text)
		if err != nil {
			return
		}
		again, err := ParseKeyring(k.Text())
		if err != nil || !reflect.DeepEqual(again, k) {
			t.Errorf("what was read is written so that it reads as %v, %v", again, err)
		}
		if got, err := again.Open(k.Seal([]byte("v"), "s", "n"), "s", "n"); err != nil || string(got) != "v" {
			t.Errorf("Open = %q, %v", got, err)
		}
	})
}

func FuzzCheckToken(f *testing.F) {
	f.Add("")
	f.Add("pst_")
	f.Add("pst_0000000000000000000000000000001uhv1w")
	f.Fuzz(func(t *testing.T, text string) {
		if err := CheckToken(text); err == nil && (len(text) != 40 || checksum(text[:34]) != text[34:]) {
			t.Errorf("%q counts as a token", text)
		}
	})
}
