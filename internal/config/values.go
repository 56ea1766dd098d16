package config

import (
	"encoding"
	"reflect"
	"strings"
)

// A Value is what one key holds, and who set it.
type Value struct {
	Key    string `json:"key"` // as it stands in a file, with its section: gc.grace
	Value  any    `json:"value"`
	Origin string `json:"origin"` // default, the name of a file, an environment variable, or a flag
}

// Values lists every key in the order of the documentation. The registry section is not among them:
// what it means is said for one registry at a time.
func (c *Config) Values() []Value {
	list := valuesOf("", reflect.ValueOf(*c))
	for i, v := range list {
		if origin, ok := c.origins[v.Key]; ok {
			list[i].Origin = origin
		}
	}
	return list
}

func valuesOf(section string, v reflect.Value) (list []Value) {
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("toml")
		if name == "" || name == "-" {
			continue
		}
		field := v.Field(i)
		if _, text := field.Interface().(encoding.TextMarshaler); field.Kind() == reflect.Struct && !text {
			list = append(list, valuesOf(section+name+".", field)...)
			continue
		}
		list = append(list, Value{Key: section + name, Value: field.Interface(), Origin: "default"})
	}
	return list
}

// Note remembers that something else than Load set the value of a key.
func (c *Config) Note(key, origin string) {
	if c.origins == nil {
		c.origins = map[string]string{}
	}
	c.origins[key] = origin
}

// noteFile remembers which keys a file has.
func (c *Config) noteFile(file string, tables map[string]any) {
	for _, v := range c.Values() {
		var at any = tables
		for key := range strings.SplitSeq(v.Key, ".") {
			table, _ := at.(map[string]any)
			at = table[key]
		}
		if at != nil {
			c.Note(v.Key, file)
		}
	}
}
