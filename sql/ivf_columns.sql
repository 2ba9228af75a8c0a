-- The columns that an ivf index can have beside the vector: of types with an order, which the index keeps, and of others,
-- of which it keeps a hash. Strategies are those of btree.

CREATE OPERATOR FAMILY bool_ops USING ivf;
COMMENT ON OPERATOR FAMILY bool_ops USING ivf IS 'conditions on truth values';
CREATE OPERATOR CLASS bool_ops DEFAULT FOR TYPE boolean USING ivf FAMILY bool_ops AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >;
COMMENT ON OPERATOR CLASS bool_ops USING ivf IS 'conditions on boolean';

CREATE OPERATOR FAMILY integer_ops USING ivf;
COMMENT ON OPERATOR FAMILY integer_ops USING ivf IS 'conditions on integers';
CREATE OPERATOR CLASS int2_ops DEFAULT FOR TYPE smallint USING ivf FAMILY integer_ops AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >;
COMMENT ON OPERATOR CLASS int2_ops USING ivf IS 'conditions on smallint';
CREATE OPERATOR CLASS int4_ops DEFAULT FOR TYPE integer USING ivf FAMILY integer_ops AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >;
COMMENT ON OPERATOR CLASS int4_ops USING ivf IS 'conditions on integer';
CREATE OPERATOR CLASS int8_ops DEFAULT FOR TYPE bigint USING ivf FAMILY integer_ops AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >;
COMMENT ON OPERATOR CLASS int8_ops USING ivf IS 'conditions on bigint';
ALTER OPERATOR FAMILY integer_ops USING ivf ADD
    OPERATOR 1 < (int2, int4), OPERATOR 2 <= (int2, int4), OPERATOR 3 = (int2, int4),
    OPERATOR 4 >= (int2, int4), OPERATOR 5 > (int2, int4),
    OPERATOR 1 < (int2, int8), OPERATOR 2 <= (int2, int8), OPERATOR 3 = (int2, int8),
    OPERATOR 4 >= (int2, int8), OPERATOR 5 > (int2, int8),
    OPERATOR 1 < (int4, int2), OPERATOR 2 <= (int4, int2), OPERATOR 3 = (int4, int2),
    OPERATOR 4 >= (int4, int2), OPERATOR 5 > (int4, int2),
    OPERATOR 1 < (int4, int8), OPERATOR 2 <= (int4, int8), OPERATOR 3 = (int4, int8),
    OPERATOR 4 >= (int4, int8), OPERATOR 5 > (int4, int8),
    OPERATOR 1 < (int8, int2), OPERATOR 2 <= (int8, int2), OPERATOR 3 = (int8, int2),
    OPERATOR 4 >= (int8, int2), OPERATOR 5 > (int8, int2),
    OPERATOR 1 < (int8, int4), OPERATOR 2 <= (int8, int4), OPERATOR 3 = (int8, int4),
    OPERATOR 4 >= (int8, int4), OPERATOR 5 > (int8, int4);

CREATE OPERATOR FAMILY oid_ops USING ivf;
COMMENT ON OPERATOR FAMILY oid_ops USING ivf IS 'conditions on object identifiers';
CREATE OPERATOR CLASS oid_ops DEFAULT FOR TYPE oid USING ivf FAMILY oid_ops AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >;
COMMENT ON OPERATOR CLASS oid_ops USING ivf IS 'conditions on oid';

CREATE OPERATOR FAMILY float_ops USING ivf;
COMMENT ON OPERATOR FAMILY float_ops USING ivf IS 'conditions on floating-point numbers';
CREATE OPERATOR CLASS float4_ops DEFAULT FOR TYPE real USING ivf FAMILY float_ops AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >;
COMMENT ON OPERATOR CLASS float4_ops USING ivf IS 'conditions on real';
CREATE OPERATOR CLASS float8_ops DEFAULT FOR TYPE double precision USING ivf FAMILY float_ops AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >;
COMMENT ON OPERATOR CLASS float8_ops USING ivf IS 'conditions on double precision';
ALTER OPERATOR FAMILY float_ops USING ivf ADD
    OPERATOR 1 < (float4, float8), OPERATOR 2 <= (float4, float8), OPERATOR 3 = (float4, float8),
    OPERATOR 4 >= (float4, float8), OPERATOR 5 > (float4, float8),
    OPERATOR 1 < (float8, float4), OPERATOR 2 <= (float8, float4), OPERATOR 3 = (float8, float4),
    OPERATOR 4 >= (float8, float4), OPERATOR 5 > (float8, float4);

CREATE OPERATOR FAMILY datetime_ops USING ivf;
COMMENT ON OPERATOR FAMILY datetime_ops USING ivf IS 'conditions on dates and times';
CREATE OPERATOR CLASS date_ops DEFAULT FOR TYPE date USING ivf FAMILY datetime_ops AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >;
COMMENT ON OPERATOR CLASS date_ops USING ivf IS 'conditions on date';
CREATE OPERATOR CLASS timestamp_ops DEFAULT FOR TYPE timestamp without time zone USING ivf FAMILY datetime_ops AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >;
COMMENT ON OPERATOR CLASS timestamp_ops USING ivf IS 'conditions on timestamp without time zone';
CREATE OPERATOR CLASS timestamptz_ops DEFAULT FOR TYPE timestamp with time zone USING ivf FAMILY datetime_ops AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >;
COMMENT ON OPERATOR CLASS timestamptz_ops USING ivf IS 'conditions on timestamp with time zone';
ALTER OPERATOR FAMILY datetime_ops USING ivf ADD
    OPERATOR 1 < (date, timestamp), OPERATOR 2 <= (date, timestamp), OPERATOR 3 = (date, timestamp),
    OPERATOR 4 >= (date, timestamp), OPERATOR 5 > (date, timestamp),
    OPERATOR 1 < (date, timestamptz), OPERATOR 2 <= (date, timestamptz), OPERATOR 3 = (date, timestamptz),
    OPERATOR 4 >= (date, timestamptz), OPERATOR 5 > (date, timestamptz),
    OPERATOR 1 < (timestamp, date), OPERATOR 2 <= (timestamp, date), OPERATOR 3 = (timestamp, date),
    OPERATOR 4 >= (timestamp, date), OPERATOR 5 > (timestamp, date),
    OPERATOR 1 < (timestamp, timestamptz), OPERATOR 2 <= (timestamp, timestamptz), OPERATOR 3 = (timestamp, timestamptz),
    OPERATOR 4 >= (timestamp, timestamptz), OPERATOR 5 > (timestamp, timestamptz),
    OPERATOR 1 < (timestamptz, date), OPERATOR 2 <= (timestamptz, date), OPERATOR 3 = (timestamptz, date),
    OPERATOR 4 >= (timestamptz, date), OPERATOR 5 > (timestamptz, date),
    OPERATOR 1 < (timestamptz, timestamp), OPERATOR 2 <= (timestamptz, timestamp), OPERATOR 3 = (timestamptz, timestamp),
    OPERATOR 4 >= (timestamptz, timestamp), OPERATOR 5 > (timestamptz, timestamp);

-- Equality only. Support function 2 is Postgres's own hash.

CREATE OPERATOR FAMILY text_ops USING ivf;
COMMENT ON OPERATOR FAMILY text_ops USING ivf IS 'equality of texts';
CREATE OPERATOR CLASS text_ops DEFAULT FOR TYPE text USING ivf FAMILY text_ops AS
    OPERATOR 3 =, FUNCTION 2 hashtextextended(text, bigint);
COMMENT ON OPERATOR CLASS text_ops USING ivf IS 'equality of texts';
CREATE OPERATOR FAMILY bpchar_ops USING ivf;
COMMENT ON OPERATOR FAMILY bpchar_ops USING ivf IS 'equality of blank-padded texts';
CREATE OPERATOR CLASS bpchar_ops DEFAULT FOR TYPE character USING ivf FAMILY bpchar_ops AS
    OPERATOR 3 =, FUNCTION 2 hashbpcharextended(bpchar, bigint);
COMMENT ON OPERATOR CLASS bpchar_ops USING ivf IS 'equality of blank-padded texts';
CREATE OPERATOR FAMILY uuid_ops USING ivf;
COMMENT ON OPERATOR FAMILY uuid_ops USING ivf IS 'equality of UUIDs';
CREATE OPERATOR CLASS uuid_ops DEFAULT FOR TYPE uuid USING ivf FAMILY uuid_ops AS
    OPERATOR 3 =, FUNCTION 2 uuid_hash_extended(uuid, bigint);
COMMENT ON OPERATOR CLASS uuid_ops USING ivf IS 'equality of UUIDs';
CREATE OPERATOR FAMILY enum_ops USING ivf;
COMMENT ON OPERATOR FAMILY enum_ops USING ivf IS 'equality of values of enumerations';
CREATE OPERATOR CLASS enum_ops DEFAULT FOR TYPE anyenum USING ivf FAMILY enum_ops AS
    OPERATOR 3 =, FUNCTION 2 hashenumextended(anyenum, bigint);
COMMENT ON OPERATOR CLASS enum_ops USING ivf IS 'equality of values of enumerations';
