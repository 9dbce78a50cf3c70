package expr

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// maxDataSize is how many bytes of JSON FromJSON takes: 64 MiB.
const maxDataSize = 64 << 20

var (
	// ErrTooDeep is given by FromJSON and FromGo for data of more than 100 levels.
	ErrTooDeep = errors.New("data is nested deeper than 100 levels")
	// ErrTooLarge is given by FromJSON for more than 64 MiB.
	ErrTooLarge = errors.New("data is larger than 64 MiB")
)

// FromJSON reads one JSON document strictly and keeps the order of keys. Of keys that differ only in case the first
// gives place and spelling, the last the value. It fails on text that is no JSON, on more than 64 MiB (ErrTooLarge)
// and on more than 100 levels (ErrTooDeep).
func FromJSON(data []byte) (Value, error) {
	if len(data) > maxDataSize {
		return Value{}, ErrTooLarge
	}
	r := newJSONReader(string(data), maxDataDepth)
	v, err := r.root()
	if errors.Is(err, errDepth) {
		return Value{}, ErrTooDeep
	}
	var ignored json.RawMessage
	if err := json.Unmarshal(data, &ignored); err != nil {
		return Value{}, fmt.Errorf("read JSON: %w", err)
	}
	return v, err
}

// FromGo converts what encoding/json, or a YAML reader, decodes into an any: nil, booleans, numbers, strings, slices
// and maps, whose keys it sorts. It fails on other types and on more than 100 levels (ErrTooDeep).
func FromGo(v any) (Value, error) { return fromGo(v, 0) }

func fromGo(v any, depth int) (Value, error) {
	if depth > maxDataDepth {
		return Value{}, ErrTooDeep
	}
	switch v := v.(type) {
	case nil:
		return Value{}, nil
	case Value:
		return v, nil
	case bool:
		return Bool(v), nil
	case float64:
		return Number(v), nil
	case int:
		return Number(float64(v)), nil
	case int64:
		return Number(float64(v)), nil
	case uint64:
		return Number(float64(v)), nil
	case json.Number:
		return Number(parseNumber(v.String())), nil
	case string:
		return String(v), nil
	case []string:
		items := make([]Value, len(v))
		for i, s := range v {
			items[i] = String(s)
		}
		return Array(items...), nil
	case map[string]string:
		return FromStrings(v), nil
	case []any:
		return fromSlice(v, depth)
	case map[string]any:
		return fromMap(v, depth)
	default:
		return Value{}, fmt.Errorf("no value for a Go %T", v)
	}
}

func fromSlice(list []any, depth int) (Value, error) {
	items := make([]Value, len(list))
	for i, item := range list {
		var err error
		if items[i], err = fromGo(item, depth+1); err != nil {
			return Value{}, err
		}
	}
	return Array(items...), nil
}

func fromMap(m map[string]any, depth int) (Value, error) {
	pairs := make([]Pair, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		v, err := fromGo(m[k], depth+1)
		if err != nil {
			return Value{}, err
		}
		pairs = append(pairs, Pair{k, v})
	}
	return Object(pairs...), nil
}

// Go converts the value to nil, bool, float64, string, []any and map[string]any.
func (v Value) Go() any {
	switch v.code {
	case codeNull:
		return nil
	case codeBoolean:
		return v.Truthy()
	case codeNumber:
		return v.number
	case codeString:
		return v.text
	case codeArray:
		items := make([]any, len(v.group.items))
		for i, item := range v.group.items {
			items[i] = item.Go()
		}
		return items
	default:
		m := make(map[string]any, len(v.group.pairs))
		for _, p := range v.group.pairs {
			m[p.Key] = p.Value.Go()
		}
		return m
	}
}

// MarshalJSON gives compact JSON with the keys in order and numbers in full. NaN and the infinities become null.
func (v Value) MarshalJSON() ([]byte, error) {
	w := jsonWriter{compact: true}
	err := w.write(v)
	return w.text, err
}

// UnmarshalJSON is FromJSON.
func (v *Value) UnmarshalJSON(data []byte) error {
	parsed, err := FromJSON(data)
	if err != nil {
		return err
	}
	*v = parsed
	return nil
}
