package expr

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func TestObjectKeys(t *testing.T) {
	for _, size := range []int{3, 20} { // without and with an index
		var pairs []Pair
		for i := range size {
			pairs = append(pairs, Pair{"Key" + strconv.Itoa(i), Number(float64(i))})
		}
		pairs = append(pairs, Pair{"kEy1", String("again")}, Pair{"Straße", Null()})
		v := Object(pairs...)
		if got, want := v.Len(), size+1; got != want {
			t.Errorf("%d pairs: got %d, want %d: the first of equal keys wins", size, got, want)
		}
		if got := v.Property("KEY1"); !Equal(got, Number(1)) {
			t.Errorf("%d pairs: KEY1 is %s, want 1", size, got.PrettyJSON())
		}
		if got, ok := v.Lookup("STRAßE"); !ok || !got.IsNull() {
			t.Errorf("%d pairs: got %v, %t, want null, true", size, got, ok)
		}
		if _, ok := v.Lookup("STRASSE"); ok {
			t.Errorf("%d pairs: ß is not SS", size)
		}
		changed := v.With("KEY1", String("new")).With("another", Bool(true))
		if got, want := changed.Property("key1").Text()+changed.Pairs()[1].Key, "newKey1"; got != want {
			t.Errorf("%d pairs: With: got %q, want %q", size, got, want)
		}
		if got, want := changed.Pairs()[changed.Len()-1].Key, "another"; got != want {
			t.Errorf("%d pairs: With: the last key is %q, want %q", size, got, want)
		}
		if got := v.Property("key1"); !Equal(got, Number(1)) {
			t.Errorf("%d pairs: With changed the original to %s", size, got.PrettyJSON())
		}
	}
}

func TestObjectIndexIsShared(t *testing.T) {
	var pairs []Pair
	for i := range 100 {
		pairs = append(pairs, Pair{"k" + strconv.Itoa(i), Number(float64(i))})
	}
	v := Object(pairs...).With("more", Null()) // has no index yet
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 100 {
				if got := v.Property("K" + strconv.Itoa(i)).Number(); got != float64(i) {
					t.Errorf("k%d: got %v", i, got)
				}
			}
		})
	}
	all.Wait()
}

func TestAccess(t *testing.T) {
	list := Array(Number(1), String("b"))
	for _, c := range []struct {
		name      string
		got, want Value
	}{
		{"At", list.At(1), String("b")},
		{"At beyond", list.At(2), Null()},
		{"At below", list.At(-1), Null()},
		{"At of a string", String("b").At(0), Null()},
		{"Property of an array", list.Property("0"), Null()},
		{"With on null", Null().With("a", Number(1)), Object(Pair{"a", Number(1)})},
		{"FromStrings", FromStrings(map[string]string{"b": "2", "a": "1"}), Object(Pair{"a", String("1")}, Pair{"b", String("2")})},
		{"FromStrings in order", String(FromStrings(map[string]string{"b": "2", "a": "1"}).Pairs()[0].Key), String("a")},
	} {
		if !DeepEqual(c.got, c.want) {
			t.Errorf("%s: got %s, want %s", c.name, c.got.PrettyJSON(), c.want.PrettyJSON())
		}
	}
	if got := String("abc").Len() + Null().Len(); got != 0 {
		t.Errorf("Len of a string and null: got %d, want 0", got)
	}
}

func TestDeepEqual(t *testing.T) {
	a := Object(Pair{"a", Array(Number(math.NaN()), String("x"))}, Pair{"b", Null()})
	same := Object(Pair{"b", Null()}, Pair{"a", Array(Number(math.NaN()), String("x"))})
	if !DeepEqual(a, same) {
		t.Error("the order of pairs matters")
	}
	for _, other := range []Value{Null(), Array(), Object(), same.With("a", Null()), same.With("c", Null()), Object(Pair{"A", a.Property("a")}, Pair{"b", Null()})} {
		if DeepEqual(a, other) {
			t.Errorf("%s equals %s", a.PrettyJSON(), other.PrettyJSON())
		}
	}
	if DeepEqual(String("a"), String("A")) || DeepEqual(Number(0), Bool(false)) {
		t.Error("kinds and case must matter")
	}
}

func TestFromJSON(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, c := range []struct {
		source string
		want   error
	}{
		{`{"a":[1,2,{"b":null}],"c":"é"}`, nil},
		{nested(100), nil},
		{nested(101), ErrTooDeep},
		{nested(100_000), ErrTooDeep},
		{strings.Repeat(`{"a":`, 101) + "1" + strings.Repeat("}", 101), ErrTooDeep},
		{strings.Repeat(" ", 64<<20) + "1", ErrTooLarge},
	} {
		if _, err := FromJSON([]byte(c.source)); !errors.Is(err, c.want) {
			t.Errorf("%.20s...: got %v, want %v", c.source, err, c.want)
		}
	}
	for _, broken := range []string{"", "[1,]", "{'a':1}", "{a:1}", "1 2", "NaN", "010", "\"\n\"", "// c\n1"} {
		if v, err := FromJSON([]byte(broken)); err == nil {
			t.Errorf("%q was taken as %s", broken, v.PrettyJSON())
		}
	}
}

func TestFromGo(t *testing.T) {
	v, err := FromGo(map[string]any{"b": []any{1.5, 2, int64(3), uint64(4), json.Number("5e1"), "s", nil, true, Number(6)}, "a": map[string]string{"x": "y"}, "c": []string{"z"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := notation(v), `{"a":{"x":"y"},"b":[1.5,2,3,4,50,"s",null,true,6],"c":["z"]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := FromGo(map[string]any{"f": func() {}}); err == nil {
		t.Error("a function was taken")
	}
	deep := any("x")
	for range 200 {
		deep = []any{deep}
	}
	if _, err := FromGo(deep); !errors.Is(err, ErrTooDeep) {
		t.Errorf("got %v, want %v", err, ErrTooDeep)
	}
}

func TestMarshalJSON(t *testing.T) {
	v := Object(
		Pair{"z", Array(Number(0.1), Number(1e21), Number(123456789012345678), Number(math.NaN()), Number(math.Inf(-1)), Number(math.Copysign(0, -1)))},
		Pair{"a", String("<\u2028\x7f\xff>")}, Pair{"e", Object()}, Pair{"n", Null()}, Pair{"t", Bool(true)},
	)
	got, err := json.Marshal(struct{ V Value }{v})
	if want := `{"V":{"z":[0.1,1e+21,123456789012345680,null,null,0],"a":"\u003c\u2028` + "\x7f" + `�\u003e","e":{},"n":null,"t":true}}`; err != nil || string(got) != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
	var back struct{ V Value }
	if err := json.Unmarshal(got, &back); err != nil {
		t.Fatal(err)
	}
	if got, want := back.V.Property("z").At(2), Number(123456789012345678); !DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got.Number(), want.Number())
	}
	if err := json.Unmarshal([]byte(`{"V":`+strings.Repeat("[", 200)+strings.Repeat("]", 200)+`}`), &back); !errors.Is(err, ErrTooDeep) {
		t.Errorf("got %v, want %v", err, ErrTooDeep)
	}
	if got, want := v.Property("z").At(3).Text()+back.V.Property("e").Text(), "NaNObject"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestGo(t *testing.T) {
	const text = `{"a":[1,"x",null,true],"b":{}}`
	v, err := FromJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := json.Marshal(v.Go()); err != nil || string(got) != text {
		t.Errorf("got %s, %v, want %s", got, err, text)
	}
}

func TestNumberOfText(t *testing.T) {
	for _, c := range []struct {
		text string
		want float64
	}{
		{"", 0}, {" \t\n\u00a0\u3000", 0}, {"\ufeff1", math.NaN()}, {"1\x00\x00", 1}, {"\x00", math.NaN()}, {"1\x00x", math.NaN()},
		{"+1", 1}, {"1e", math.NaN()}, {"1e+", math.NaN()}, {"1e5x", math.NaN()}, {".", math.NaN()}, {"-.5e-1", -0.05}, {"1e99999999999", math.Inf(1)}, {"-1e-99999999999", 0},
		{"0x", math.NaN()}, {"0x_1", math.NaN()}, {"0x0000000001", 1}, {"-0x1", math.NaN()}, {"0b1", math.NaN()}, {"0o777", 511}, {"0o-1", math.NaN()}, {"0x+1", math.NaN()},
		{"iNfInItY", math.Inf(1)}, {"-INFINITY", math.Inf(-1)}, {"+NAN", math.NaN()}, {"Infinit", math.NaN()}, {"١", math.NaN()},
	} {
		if got := String(c.text).Number(); got != c.want && !(got != got && c.want != c.want) {
			t.Errorf("%q: got %v, want %v", c.text, got, c.want)
		}
	}
}

func TestFold(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int // the sign of a compared with b
	}{
		{"abc", "ABC", 0}, {"µ", "Μ", 0}, {"ς", "σ", 0}, {"ÿ", "Ÿ", 0}, {"𐐨", "𐐀", 0},
		{"i", "İ", -1}, {"ı", "I", 1}, {"ſ", "s", 1}, {"\u212A", "k", 1}, {"ß", "ẞ", -1}, {"ǆ", "ǅ", 0},
		{"a", "ab", -1}, {"b", "A", 1}, {"_", "a", 1}, {"😀", "\uffff", 1}, {"", "a", -1},
	} {
		got := compareFold(c.a, c.b)
		if sign(got) != c.want || sign(compareFold(c.b, c.a)) != -c.want || equalFold(c.a, c.b) != (c.want == 0) || (foldKey(c.a) == foldKey(c.b)) != (c.want == 0) {
			t.Errorf("%q and %q: got %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func sign(n int) int { return min(1, max(-1, n)) }
