CREATE TYPE vector;
